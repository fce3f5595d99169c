package outboxtest_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
	"github.com/outboxd/outboxd/outbox/outboxtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

const createOutbox = `CREATE TABLE outbox (
	id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text, type text NOT NULL,
	payload json, headers jsonb,
	created_at timestamptz NOT NULL DEFAULT now(), bucket smallint NOT NULL DEFAULT 0,
	seq bigint GENERATED ALWAYS AS IDENTITY, xid xid8 NOT NULL DEFAULT pg_current_xact_id())`

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func mustExec(t *testing.T, conn *pgx.Conn, query string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func begin(t *testing.T, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	return tx
}

func event(n int) outbox.Event {
	return outbox.Event{AggregateType: "order", AggregateID: fmt.Sprint(n), Type: "order.placed", Payload: map[string]any{"n": n}}
}

func write(t *testing.T, table outbox.Table, tx pgx.Tx, events ...outbox.Event) []outbox.ID {
	t.Helper()
	ids, err := table.Write(t.Context(), tx, events...)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// fakeT records the failure that would stop a test.
type fakeT struct {
	testing.TB
	failure string
}

func (f *fakeT) Helper() {}

func (f *fakeT) Fatalf(format string, args ...any) {
	f.failure = fmt.Sprintf(format, args...)
	panic(f) // what runtime.Goexit does for a real test: nothing below runs
}

// failureOf returns the message with which do stops its test, or nothing.
func failureOf(t *testing.T, do func(testing.TB)) (failure string) {
	t.Helper()
	fake := &fakeT{TB: t}
	defer func() {
		if r := recover(); r != nil && r != any(fake) {
			panic(r)
		}
		failure = fake.failure
	}()
	do(fake)
	return ""
}

func aggregateIDs(events []outboxtest.Written) string {
	var ids []string
	for _, e := range events {
		ids = append(ids, e.AggregateID)
	}
	return strings.Join(ids, " ")
}

func TestEventsAreThoseOfTheTransactionAlone(t *testing.T) {
	for what, ddl := range map[string]string{
		"outboxd's table": createOutbox,
		"plain table":     `CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json, headers jsonb)`,
		"partitioned table": strings.Replace(createOutbox, " GENERATED ALWAYS AS IDENTITY", " DEFAULT nextval('n')", 1) +
			` PARTITION BY LIST (aggregateid)`,
	} {
		url := devtest.Database(t)
		conn, other := connect(t, url), connect(t, url)
		mustExec(t, conn, "CREATE SEQUENCE n")
		mustExec(t, conn, ddl)
		if what == "partitioned table" {
			mustExec(t, conn, "CREATE TABLE rest PARTITION OF outbox DEFAULT")
			mustExec(t, conn, "CREATE TABLE another PARTITION OF outbox FOR VALUES IN ('3')") // seq orders across them
		}
		committed := begin(t, conn)
		write(t, outbox.Table{}, committed, event(1))
		if err := committed.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}

		tx := begin(t, conn)
		if got := outboxtest.Events(t, t.Context(), tx); got != nil {
			t.Errorf("%s: a transaction that wrote nothing has events %+v", what, got)
		}
		write(t, outbox.Table{}, tx, event(2), event(3))
		released, err := tx.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		write(t, outbox.Table{}, released, event(4))
		if err := released.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		undone, err := tx.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		write(t, outbox.Table{}, undone, event(5))
		if err := undone.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		// A neighbour that begins later and commits is visible here, and not ours.
		neighbour := begin(t, other)
		write(t, outbox.Table{}, neighbour, event(6))
		if err := neighbour.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		nested, err := tx.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		write(t, outbox.Table{}, nested, event(7))
		if got := aggregateIDs(outboxtest.Events(t, t.Context(), nested)); got != "2 3 4 7" {
			t.Errorf("%s: events %s, want 2 3 4 7", what, got)
		}
	}
}

func TestEventsHoldsWhatWasWritten(t *testing.T) {
	for _, column := range []outbox.PayloadType{outbox.JSON, outbox.JSONB, outbox.Text, outbox.Bytea} {
		conn := connect(t, devtest.Database(t))
		mustExec(t, conn, strings.Replace(createOutbox, "payload json", "payload "+string(column), 1))
		table := outbox.Table{Payload: column}
		tx := begin(t, conn)
		e := event(1)
		e.Payload, e.Headers = []byte(`"\\x00"`), map[string]string{"b": "1", "a": "2"}
		null := event(2)
		null.Payload = nil
		ids := write(t, table, tx, e, null)
		got := outboxtest.Table(table).Events(t, t.Context(), tx)
		want := []outboxtest.Written{
			{ID: ids[0], AggregateType: "order", AggregateID: "1", Type: "order.placed", Payload: e.Payload.([]byte), Headers: []outbox.Header{{Name: "a", Value: "2"}, {Name: "b", Value: "1"}}},
			{ID: ids[1], AggregateType: "order", AggregateID: "2", Type: "order.placed"},
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) || got[1].Payload != nil {
			t.Errorf("%s: got\n%q, want\n%q", column, got, want)
		}
	}
}

func TestOtherTablesAndDatabaseSQL(t *testing.T) {
	url := devtest.Database(t)
	conn := connect(t, url)
	mustExec(t, conn, `CREATE SCHEMA "Shop"`)
	mustExec(t, conn, `CREATE TABLE "Shop"."Events" (event_id varchar(36), kind text, xid text, id text, xmax_ text, body bytea)`)
	table := outbox.Table{
		Name: "Shop.Events", Payload: outbox.Bytea,
		Columns: outbox.Columns{ID: "event_id", AggregateType: "kind", AggregateID: "id", Type: "xid", Payload: "body", Headers: outbox.NoColumn},
	}
	want := outbox.Event{AggregateType: "order", AggregateID: "1", Type: "order.placed", Payload: []byte{0, 0xff}}
	tx := begin(t, conn)
	write(t, table, tx, want)
	outboxtest.Table(table).RequireWritten(t, t.Context(), tx, want)

	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	sqlTx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sqlTx.Rollback()
	outboxtest.Table(table).RequireWrittenSQL(t, t.Context(), sqlTx)
	if _, err := table.WriteSQL(t.Context(), sqlTx, want, want); err != nil {
		t.Fatal(err)
	}
	outboxtest.Table(table).RequireWrittenSQL(t, t.Context(), sqlTx, want, want)
	if n := len(outboxtest.Table(table).EventsSQL(t, t.Context(), sqlTx)); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	failure := failureOf(t, func(t testing.TB) { outboxtest.RequireWrittenSQL(t, context.Background(), sqlTx) })
	if !strings.Contains(failure, `relation "outbox" does not exist`) {
		t.Errorf("without a table the test stops with %q", failure)
	}
}

func TestDefaultTableOfDatabaseSQL(t *testing.T) {
	url := devtest.Database(t)
	mustExec(t, connect(t, url), createOutbox)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := outbox.WriteSQL(t.Context(), tx, event(1)); err != nil {
		t.Fatal(err)
	}
	outboxtest.RequireWrittenSQL(t, t.Context(), tx, event(1))
	if got := aggregateIDs(outboxtest.EventsSQL(t, t.Context(), tx)); got != "1" {
		t.Errorf("events %s, want 1", got)
	}
}

func TestRequireWrittenAccepts(t *testing.T) {
	conn := connect(t, devtest.Database(t))
	mustExec(t, conn, createOutbox)
	tx := begin(t, conn)
	e := event(9007199254740993)
	e.Payload = json.RawMessage(`{"b":[1.50,{"x":null}],"a":9007199254740993,"<":"\u003c"}`)
	e.Headers = map[string]string{"tenant": "acme", "other": ""}
	null := event(2)
	null.Payload = nil
	ids := write(t, outbox.Table{}, tx, e, null)
	type any1 = map[string]any
	for what, want := range map[string]outbox.Event{
		"nothing":      {},
		"names":        {AggregateType: "order", AggregateID: "9007199254740993", Type: "order.placed"},
		"id":           {ID: ids[0]},
		"the same":     e,
		"other JSON":   {Payload: []byte(` {"<":"<", "a":9007199254740993.0, "b" : [15e-1, {"x":null}]}`)},
		"marshallable": {Payload: any1{"a": int64(9007199254740993), "b": []any{1.5, any1{"x": nil}}, "<": "<"}},
		"a header":     {Headers: map[string]string{"tenant": "acme"}},
		"empty header": {Headers: map[string]string{"other": ""}},
	} {
		for _, second := range []outbox.Event{{}, {Payload: outboxtest.NullPayload}} {
			if failure := failureOf(t, func(t testing.TB) { outboxtest.RequireWritten(t, context.Background(), tx, want, second) }); failure != "" {
				t.Errorf("%s: %s", what, failure)
			}
		}
	}
}

func TestRequireWrittenReportsDifferences(t *testing.T) {
	conn := connect(t, devtest.Database(t))
	mustExec(t, conn, createOutbox)
	tx := begin(t, conn)
	e := event(1)
	e.Payload = json.RawMessage(`{"b":"<>","a":9007199254740993}`)
	e.Headers = map[string]string{"tenant": "acme"}
	null := event(2)
	null.Payload = nil
	ids := write(t, outbox.Table{}, tx, e, null)
	id, _ := outbox.ParseID("0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44")
	const head = "outboxtest: the transaction wrote other events than wanted (- wanted, + written):\n"
	const first, second = "event 0: order.placed of order 1\n", "event 1: order.placed of order 2\n"
	const good, goodToo = "event 0: as wanted: order.placed of order 1\n", "event 1: as wanted: order.placed of order 2\n"
	diff := func(field, want, got string) string {
		return "  - " + field + ": " + want + "\n  + " + field + ": " + got + "\n"
	}
	const payload = `{"a":9007199254740993,"b":"<>"}`
	for _, test := range []struct {
		want    []outbox.Event
		failure string
	}{
		{nil, head + "event 0: not wanted\n  + order.placed of order 1\nevent 1: not wanted\n  + order.placed of order 2\n"},
		{[]outbox.Event{e}, head + good + "event 1: not wanted\n  + order.placed of order 2\n"},
		{[]outbox.Event{{}, {}, event(3), {}}, head + good + goodToo + "event 2: missing\n  - order.placed of order 3\nevent 3: missing\n  - (any) of (any) (any)\n"},
		{[]outbox.Event{{AggregateType: "x", AggregateID: "y", Type: "z"}, {}}, head + first +
			diff("AggregateType", `"x"`, `"order"`) + diff("AggregateID", `"y"`, `"1"`) + diff("Type", `"z"`, `"order.placed"`) + goodToo},
		{[]outbox.Event{{ID: id}, {}}, head + first + diff("ID", `"`+id.String()+`"`, `"`+ids[0].String()+`"`) + goodToo},
		{[]outbox.Event{{Payload: map[string]any{"b": "<>", "a": int64(9007199254740992)}}, {}}, head + first +
			diff("Payload", `{"a":9007199254740992,"b":"<>"}`, payload) + goodToo},
		{[]outbox.Event{{Payload: []byte("not JSON")}, {}}, head + first + diff("Payload", `"not JSON"`, payload) + goodToo},
		{[]outbox.Event{{Payload: []byte(payload + payload)}, {}}, head + first + diff("Payload", fmt.Sprintf("%q", payload+payload), payload) + goodToo},
		{[]outbox.Event{{Payload: json.RawMessage("[1]")}, {}}, head + first + diff("Payload", "[1]", payload) + goodToo},
		{[]outbox.Event{{Payload: json.RawMessage(`{"b":"<>"}`)}, {}}, head + first + diff("Payload", `{"b":"<>"}`, payload) + goodToo},
		{[]outbox.Event{{Payload: json.RawMessage(`{"b":"<>","c":9007199254740993}`)}, {}}, head + first + diff("Payload", `{"b":"<>","c":9007199254740993}`, payload) + goodToo},
		{[]outbox.Event{{Payload: outboxtest.NullPayload}, {}}, head + first + diff("Payload", "NULL", payload) + goodToo},
		{[]outbox.Event{{}, {Payload: []byte("null")}}, head + good + second + diff("Payload", "null", "NULL")},
		{[]outbox.Event{{Headers: map[string]string{"tenant": "x", "a": ""}}, {}}, head + first +
			diff(`Headers["a"]`, `""`, "missing") + diff(`Headers["tenant"]`, `"x"`, `"acme"`) + goodToo},
		{[]outbox.Event{{Payload: make(chan int)}, {}}, "outboxtest: wanted event 0: payload cannot be marshalled: json: unsupported type: chan int"},
	} {
		got := failureOf(t, func(t testing.TB) { outboxtest.RequireWritten(t, context.Background(), tx, test.want...) })
		if got != test.failure {
			t.Errorf("RequireWritten(%+v) stops with\n%s, want\n%s", test.want, got, test.failure)
		}
	}
}

func TestArraysAndScalarsAreComparedByValue(t *testing.T) {
	conn := connect(t, devtest.Database(t))
	mustExec(t, conn, createOutbox)
	for written, different := range map[string][]string{
		`[1,2]`:                     {`[2,1]`, `[1]`, `[1,2,3]`, `{"0":1,"1":2}`, `[1,"2"]`},
		`"1"`:                       {`1`, `true`, `null`},
		`1`:                         {`"1"`, `1.0000000000000000000001`, `10`, `-1`},
		`true`:                      {`false`, `1`, `"true"`},
		`null`:                      {`0`, `""`, `{}`, `[]`},
		`1e999999999999999999999`:   {`1e999999999999999999998`, `1`},
		`{"a":{"b":[{"c":[0.1]}]}}`: {`{"a":{"b":[{"c":[0.2]}]}}`, `{"a":[]}`},
	} {
		tx := begin(t, conn)
		e := event(1)
		e.Payload = json.RawMessage(written)
		write(t, outbox.Table{}, tx, e)
		outboxtest.RequireWritten(t, t.Context(), tx, e)
		for _, other := range different {
			want := outbox.Event{Payload: json.RawMessage(other)}
			if failureOf(t, func(t testing.TB) { outboxtest.RequireWritten(t, context.Background(), tx, want) }) == "" {
				t.Errorf("%s passes for %s", written, other)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
