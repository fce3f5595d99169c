package relay

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

func text(s string) cdc.Value   { return cdc.Value{Format: cdc.Text, Bytes: []byte(s)} }
func binary(s string) cdc.Value { return cdc.Value{Format: cdc.Binary, Bytes: []byte(s)} }

var null = cdc.Value{Format: cdc.Null}

// table is an event table whose columns are not in the usual order.
func table(payload uint32, more ...cdc.Column) *cdc.Relation {
	return &cdc.Relation{Schema: "public", Name: "outbox", Columns: append([]cdc.Column{
		{Name: "payload", Type: payload}, {Name: "seq", Type: pgtype.Int8OID}, {Name: "id", Type: pgtype.UUIDOID},
		{Name: "aggregatetype", Type: pgtype.TextOID}, {Name: "aggregateid", Type: pgtype.TextOID}, {Name: "type", Type: pgtype.VarcharOID},
	}, more...)}
}

func read(t *testing.T, rel *cdc.Relation, row ...cdc.Value) (record.Event, error) {
	t.Helper()
	p, err := newPlan(rel, Columns{})
	if err != nil {
		t.Fatal(err)
	}
	var ev record.Event
	_, err = p.event(row, &ev, nil)
	return ev, err
}

const uuidText = "0190d5a5-6c3a-7000-8000-000000000001"

func TestRow(t *testing.T) {
	rel := table(pgtype.JSONOID, cdc.Column{Name: "headers", Type: pgtype.JSONBOID}, cdc.Column{Name: "created_at", Type: pgtype.TimestamptzOID})
	got, err := read(t, rel, text(`{"a": 1.10}`), text("9"), text(uuidText), text("order"), text("7"), text("placed"), text(`{"h":"v"}`), text("2026-11-24 20:15:00.25+00"))
	if err != nil {
		t.Fatal(err)
	}
	want := record.Event{
		ID: []byte(uuidText), AggregateType: []byte("order"), AggregateID: []byte("7"), Type: []byte("placed"),
		Payload: []byte(`{"a": 1.10}`), PayloadKind: record.JSON, Headers: []byte(`{"h":"v"}`),
		Time: time.Date(2026, 11, 24, 20, 15, 0, 250_000_000, time.UTC),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// TestRowBinary: several values are made in the same scratch, and none may be
// overwritten by the next.
func TestRowBinary(t *testing.T) {
	id := "\x01\x90\xd5\xa5\x6c\x3a\x70\x00\x80\x00\x00\x00\x00\x00\x00\x01"
	rel := table(pgtype.JSONBOID, cdc.Column{Name: "headers", Type: pgtype.JSONBOID})
	rel.Columns[4].Type = pgtype.Int8OID
	got, err := read(t, rel, binary("\x01{}"), null, binary(id), binary("order"), binary("\x00\x00\x00\x00\x00\x00\x00\x2a"), binary("placed"), binary("\x01{\"h\":\"v\"}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, got, want string }{
		{"id", string(got.ID), uuidText}, {"aggregate id", string(got.AggregateID), "42"},
		{"payload", string(got.Payload), "{}"}, {"headers", string(got.Headers), `{"h":"v"}`}, {"type", string(got.Type), "placed"},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q, want %q", c.name, c.got, c.want)
		}
	}
}

// TestRowNull: NULL is nil and the empty text is not.
func TestRowNull(t *testing.T) {
	empty := cdc.Value{Format: cdc.Text}
	got, err := read(t, table(pgtype.TextOID), null, null, null, empty, null, text("x"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Payload != nil || got.ID != nil || got.AggregateID != nil || got.Headers != nil || !got.Time.IsZero() {
		t.Errorf("NULL, or no column, is something: %+v", got)
	}
	if got.AggregateType == nil {
		t.Error("the empty text became NULL")
	}
}

func TestRowPayloadKinds(t *testing.T) {
	tests := []struct {
		oid  uint32
		in   cdc.Value
		kind record.PayloadKind
		want string
	}{
		{pgtype.JSONOID, text("{}"), record.JSON, "{}"},
		{pgtype.JSONBOID, text("{}"), record.JSON, "{}"},
		{pgtype.TextOID, text(`\x00`), record.Text, `\x00`},
		{pgtype.ByteaOID, text(`\x00ff`), record.Binary, "\x00\xff"},
		{pgtype.ByteaOID, text(`\x`), record.Binary, ""},
		{pgtype.ByteaOID, binary("\x00\xff"), record.Binary, "\x00\xff"},
	}
	for _, tt := range tests {
		got, err := read(t, table(tt.oid), tt.in, null, text("i"), text("a"), text("k"), text("t"))
		if err != nil || got.PayloadKind != tt.kind || string(got.Payload) != tt.want || got.Payload == nil {
			t.Errorf("type %d, %q: kind %d, %q, %v", tt.oid, tt.in.Bytes, got.PayloadKind, got.Payload, err)
		}
	}
}

func TestRowUndecodable(t *testing.T) {
	_, err := read(t, table(pgtype.ByteaOID), text(`\xzz`), null, text("i"), text("a"), text("k"), text("t"))
	var poison *publisher.PoisonError
	if !errors.As(err, &poison) || poison.Reason != record.ReasonBadRecord {
		t.Errorf("%v, want a poison error", err)
	}
}

// TestRowTime: what is no time leaves the commit time to stand in.
func TestRowTime(t *testing.T) {
	for in, oid := range map[string]uint32{"infinity": pgtype.TimestamptzOID, "0044-03-15 12:00:00+00 BC": pgtype.TimestamptzOID, "12": pgtype.Int8OID} {
		got, err := read(t, table(pgtype.JSONOID, cdc.Column{Name: "created_at", Type: oid}),
			text("{}"), null, text("i"), text("a"), text("k"), text("t"), text(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if in != "0044-03-15 12:00:00+00 BC" && !got.Time.IsZero() {
			t.Errorf("%s became %s", in, got.Time)
		}
	}
}

func TestColumns(t *testing.T) {
	rel := table(pgtype.JSONOID)
	_, err := newPlan(rel, Columns{ID: "event_id", Type: "kind", Headers: "meta"})
	var missing *MissingColumnsError
	if !errors.As(err, &missing) || !reflect.DeepEqual(missing.Missing, []string{"event_id", "kind"}) {
		t.Errorf("%v, want event_id and kind and not the optional meta", err)
	}
	if want := "name what holds them: --columns id=…,type=…; if the publication has a column list, add event_id, kind to it"; missing.Fix() != want {
		t.Errorf("fix %q, want %q", missing.Fix(), want)
	}
	rel.Columns[2].Name = "event_id"
	if _, err := newPlan(rel, Columns{ID: "event_id"}); err != nil {
		t.Error(err)
	}
}
