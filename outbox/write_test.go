package outbox_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/outbox"
)

// awkward are texts that lose their way through careless quoting.
var awkward = []string{
	`a`, `O'Brien`, `"quoted"`, `back\slash`, `\`, `"`, `{1,2}`, `{}`, `NULL`, `null`, ` space `, `,`, "tab\tline\nreturn\r",
	`😀`, `ключ`, `%s $1 ::text`, `\x00`, `--`, "\u007f\u2028",
}

func TestWriteRoundTripsEveryColumnWithEveryDriver(t *testing.T) {
	conn := connect(t, createOutbox)
	events := make([]outbox.Event, len(awkward))
	for i, s := range awkward {
		events[i] = outbox.Event{
			AggregateType: "t" + s, AggregateID: s, Type: s + "t",
			Payload: map[string]string{"text": s},
			Headers: map[string]string{"text": s, "a": "b"},
		}
	}
	for _, w := range writers(t, conn) {
		for _, batch := range [][]outbox.Event{events, events[1:2], events[2:3], events[3:4], events[7:8]} {
			mustExec(t, conn, "TRUNCATE outbox")
			ids, err := w.write(outbox.Table{}, batch...)
			if err != nil {
				t.Fatalf("%s: %v", w.name, err)
			}
			rows := readAll(t, conn, selectOutbox)
			if len(ids) != len(batch) || len(rows) != len(batch) {
				t.Fatalf("%s: %d ids and %d rows of %d events", w.name, len(ids), len(rows), len(batch))
			}
			for i, row := range rows {
				e := batch[i]
				if row.ID != ids[i].String() || row.AggregateType != e.AggregateType || row.AggregateID != e.AggregateID || row.Type != e.Type {
					t.Errorf("%s: event %d %+v is stored as %+v with id %v", w.name, i, e, row, ids[i])
				}
				var payload, headers map[string]string
				if err := json.Unmarshal([]byte(text(row.Payload)), &payload); err != nil || payload["text"] != e.AggregateID {
					t.Errorf("%s: payload of %q is stored as %s", w.name, e.AggregateID, text(row.Payload))
				}
				if err := json.Unmarshal([]byte(text(row.Headers)), &headers); err != nil || len(headers) != 2 || headers["text"] != e.AggregateID {
					t.Errorf("%s: headers of %q are stored as %s", w.name, e.AggregateID, text(row.Headers))
				}
			}
		}
	}
}

func TestWriteKeepsPayloadBytes(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	var (
		oddJSON = "\t{ \"b\" : 1.00, \"a\":\"\\u0000\\\\\", \"b\":[ ] } \n"
		oddText = strings.Join(awkward, "|")
	)
	for _, test := range []struct {
		column   outbox.PayloadType
		payloads []any
		want     []string
	}{
		{"", []any{[]byte(oddJSON), json.RawMessage(oddJSON), nil}, []string{oddJSON, oddJSON, "NULL"}},
		{outbox.JSON, []any{"a<b>&", json.RawMessage("null"), 1.5}, []string{`"a<b>&"`, "null", "1.5"}},
		{outbox.JSONB, []any{[]byte(`{"b": 1.00, "a":2, "a":3}`), []byte(nil)}, []string{`{"a": 3, "b": 1.00}`, "NULL"}},
		{outbox.Text, []any{[]byte(oddText), []byte{}, json.RawMessage(nil)}, []string{oddText, "", "NULL"}},
		{outbox.Text, []any{map[string]int{"a": 1}}, []string{`{"a":1}`}},
		{outbox.Bytea, []any{every, []byte{}, nil, true}, []string{hexText(every), `\x`, "NULL", hexText([]byte("true"))}},
	} {
		column := test.column
		if column == "" {
			column = outbox.JSON
		}
		conn := connect(t, strings.Replace(createOutbox, "payload json", "payload "+string(column), 1))
		for _, w := range writers(t, conn) {
			mustExec(t, conn, "TRUNCATE outbox")
			var events []outbox.Event
			table := outbox.Table{Payload: test.column}
			for _, payload := range test.payloads { // one by one, then all at once
				events = append(events, order(payload))
				if _, err := w.write(table, order(payload)); err != nil {
					t.Fatalf("%s, %q: %v", w.name, test.column, err)
				}
			}
			if _, err := w.write(table, events...); err != nil {
				t.Fatalf("%s, %q: %v", w.name, test.column, err)
			}
			for i, row := range readAll(t, conn, selectOutbox) {
				if got, want := text(row.Payload), test.want[i%len(test.want)]; got != want {
					t.Errorf("%s, %q, row %d: payload %q, want %q", w.name, test.column, i, got, want)
				}
			}
		}
	}
}

func hexText(b []byte) string { return `\x` + hex.EncodeToString(b) }

func TestWriteLeavesHeadersNullWhenThereAreNone(t *testing.T) {
	conn := connect(t, createOutbox)
	if _, err := writers(t, conn)[0].write(outbox.Table{}, order(1), order(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := writers(t, conn)[0].write(outbox.Table{}, order(3)); err != nil {
		t.Fatal(err)
	}
	for i, row := range readAll(t, conn, selectOutbox) {
		if row.Headers != nil {
			t.Errorf("row %d: headers %s, want NULL", i, *row.Headers)
		}
	}
}

func TestWriteKeepsTheCallersIDs(t *testing.T) {
	conn := connect(t, createOutbox)
	mine := order(1)
	mine.ID, _ = outbox.ParseID("c1b9e6a4-52f1-4b6e-9b57-0d1f6f1a2b3c")
	events := []outbox.Event{order(0), mine, order(2)}
	ids, err := writers(t, conn)[0].write(outbox.Table{}, events...)
	if err != nil {
		t.Fatal(err)
	}
	if ids[1] != mine.ID || ids[0].IsZero() || ids[2].IsZero() || ids[0].String() >= ids[2].String() {
		t.Errorf("ids %v, want a new one, %v, and a newer one", ids, mine.ID)
	}
	if !events[0].ID.IsZero() {
		t.Error("Write changed the caller's event")
	}
}

func TestWriteOfManyEventsKeepsTheirOrder(t *testing.T) {
	conn := connect(t, createOutbox)
	const n = 20_000 // more than a statement has room for parameters
	events := make([]outbox.Event, n)
	for i := range events {
		events[i] = order(i)
	}
	if _, err := writers(t, conn)[0].write(outbox.Table{}, events...); err != nil {
		t.Fatal(err)
	}
	rows := readAll(t, conn, selectOutbox)
	if len(rows) != n {
		t.Fatalf("%d rows, want %d", len(rows), n)
	}
	for i, row := range rows {
		if *row.Payload != fmt.Sprint(i) {
			t.Fatalf("row %d holds event %s", i, *row.Payload)
		}
	}
}

func TestWriteOfNothingDoesNothing(t *testing.T) {
	// A nil transaction would panic if it were used.
	if ids, err := outbox.Write(t.Context(), nil); ids != nil || err != nil {
		t.Errorf("Write() = %v, %v", ids, err)
	}
	if ids, err := outbox.EmitSQL(t.Context(), nil); ids != nil || err != nil {
		t.Errorf("EmitSQL() = %v, %v", ids, err)
	}
}

func TestWriteSharesTheFateOfItsTransaction(t *testing.T) {
	conn := connect(t, createOutbox)
	tx := begin(t, conn)
	write := func(tx pgx.Tx, n int) {
		t.Helper()
		if _, err := outbox.Write(t.Context(), tx, order(n)); err != nil {
			t.Fatal(err)
		}
	}
	write(tx, 1)
	savepoint, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(savepoint, 2)
	if err := savepoint.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(tx, 3)
	commit(t, tx)
	tx = begin(t, conn)
	write(tx, 4)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range readAll(t, conn, selectOutbox) {
		got = append(got, *row.Payload)
	}
	if want := []string{"1", "3"}; !slices.Equal(got, want) {
		t.Errorf("events %v are stored, want %v", got, want)
	}
}

func TestWriteToAnExistingTable(t *testing.T) {
	conn := connect(t, `CREATE SCHEMA "Shop's"`, `CREATE TABLE "Shop's"."Out""box" (
		"Event ID" varchar(36) PRIMARY KEY, kind varchar(255), "user" char(3), "select" text, body bytea, meta json,
		n int GENERATED ALWAYS AS IDENTITY)`)
	table := outbox.Table{
		Name:    `Shop's.Out"box`,
		Columns: outbox.Columns{ID: "Event ID", AggregateType: "kind", AggregateID: "user", Type: "select", Payload: "body", Headers: "meta"},
		Payload: outbox.Bytea,
	}
	e := outbox.Event{AggregateType: "a", AggregateID: "bcd", Type: "e", Payload: []byte("f"), Headers: map[string]string{"g": "h"}}
	for _, w := range writers(t, conn) {
		mustExec(t, conn, `TRUNCATE "Shop's"."Out""box"`)
		ids, err := w.write(table, e)
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		more, err := w.write(table, e, e)
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		ids = append(ids, more...)
		rows := readAll(t, conn, `SELECT "Event ID", kind, "user", "select", body::text, meta::text FROM "Shop's"."Out""box" ORDER BY n`)
		for i, row := range rows {
			got := []string{row.ID, row.AggregateType, row.AggregateID, row.Type, text(row.Payload), text(row.Headers)}
			want := []string{ids[i].String(), "a", "bcd", "e", `\x66`, `{"g": "h"}`}
			if !slices.Equal(got, want) {
				t.Errorf("%s: stored %q, want %q", w.name, got, want)
			}
		}
		if len(rows) != 3 {
			t.Errorf("%s: %d rows, want 3", w.name, len(rows))
		}
	}
}

func TestWriteToATableWithoutHeaders(t *testing.T) {
	conn := connect(t, strings.Replace(createOutbox, "headers jsonb,", "", 1))
	table := outbox.Table{Columns: outbox.Columns{Headers: outbox.NoColumn}}
	for _, w := range writers(t, conn) {
		if _, err := w.write(table, order(1)); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
		if _, err := w.write(table, order(1), order(2)); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
	}
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM outbox").Scan(&n); err != nil || n != 9 {
		t.Errorf("%d rows, want 9 (%v)", n, err)
	}
}

func TestWriteNamesTheRemedyOfAWrongSetUp(t *testing.T) {
	conn := connect(t, createOutbox, "CREATE SCHEMA closed", "CREATE ROLE "+roleName(t), "CREATE TABLE closed.outbox (LIKE outbox INCLUDING ALL)")
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), "RESET ROLE; DROP ROLE "+roleName(t)); err != nil {
			t.Error(err)
		}
	})
	for _, test := range []struct {
		name  string
		setUp string
		table outbox.Table
		want  []string
	}{
		{"no table", "", outbox.Table{Name: "shop.events"}, []string{"1 event to table shop.events", "outboxd setup", "Table.Name"}},
		{"no column", "", outbox.Table{Columns: outbox.Columns{Type: "kind"}}, []string{`"kind"`, "Table.Columns"}},
		{"wrong type", "", outbox.Table{Payload: outbox.Bytea}, []string{"table outbox", "Table.Payload"}},
		{"no right", "SET ROLE " + roleName(t), outbox.Table{}, []string{"permission denied", "--app-role"}},
		{"other error", "RESET ROLE; ALTER TABLE outbox ADD CHECK (seq < 0)", outbox.Table{}, []string{"table outbox: ERROR: new row"}},
	} {
		if test.setUp != "" {
			mustExec(t, conn, test.setUp)
		}
		_, err := writers(t, conn)[0].write(test.table, order(1))
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v does not say %q", test.name, err, want)
			}
		}
		if invalid := (*outbox.ValidationError)(nil); errors.As(err, &invalid) {
			t.Errorf("%s: the server's error is a ValidationError", test.name)
		}
	}
}

func roleName(t *testing.T) string { return strings.ToLower(fmt.Sprintf("outbox_%s", t.Name())) }
