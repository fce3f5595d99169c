package outbox_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// wal reads what is decoded from the write-ahead log of one database.
type wal struct {
	conn *pgx.Conn
	name string // of slot and publication
}

func newWAL(t *testing.T, conn *pgx.Conn) *wal {
	t.Helper()
	w := &wal{conn: conn, name: devtest.Name(t)}
	mustExec(t, conn, "CREATE PUBLICATION "+w.name)
	mustExec(t, conn, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", w.name)
	return w
}

// contents returns the contents of the logical messages since the last call.
func (w *wal) contents(t *testing.T) [][]byte {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), `SELECT data FROM pg_logical_slot_get_binary_changes(
		$1, NULL, NULL, 'proto_version', '1', 'publication_names', $2, 'messages', 'true')`, w.name, w.name)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	var contents [][]byte
	for _, change := range changes {
		if change[0] != 'M' {
			continue
		}
		if change[1] != 1 {
			t.Error("a message is not transactional")
		}
		prefix, rest, _ := bytes.Cut(change[10:], []byte{0}) // behind kind, flags and LSN
		if string(prefix) != outbox.MessagePrefix {
			t.Errorf("a message has prefix %q", prefix)
		}
		content := rest[4:]
		if n := binary.BigEndian.Uint32(rest); int(n) != len(content) {
			t.Errorf("a message of %d bytes says it has %d", len(content), n)
		}
		contents = append(contents, content)
	}
	return contents
}

// events returns the events in the messages since the last call.
func (w *wal) events(t *testing.T) []outbox.Emitted {
	t.Helper()
	var events []outbox.Emitted
	for _, content := range w.contents(t) {
		m, err := outbox.DecodeMessage(content)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, m.Events...)
	}
	return events
}

func TestEmitRoundTripsWithEveryDriver(t *testing.T) {
	conn := connect(t)
	w := newWAL(t, conn)
	var events []outbox.Event
	for _, s := range awkward {
		e := outbox.Event{AggregateType: "t" + s, AggregateID: s, Type: s + "t", Payload: []byte(s), Headers: map[string]string{"b": s, "a": ""}}
		events = append(events, e)
	}
	for _, payload := range awkwardPayloads {
		events = append(events, order([]byte(payload)))
	}
	events = append(events, order(nil), order("a<b>&"))
	for _, way := range writers(t, conn) {
		before := time.Now().Truncate(time.Microsecond)
		ids, err := way.emit(outbox.Table{}, events...)
		if err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		contents := w.contents(t)
		if len(contents) != 1 {
			t.Fatalf("%s: %d messages, want 1", way.name, len(contents))
		}
		m, err := outbox.DecodeMessage(contents[0])
		if err != nil {
			t.Fatalf("%s: %v in %s", way.name, err, contents[0])
		}
		if m.Time.Before(before) || m.Time.After(time.Now()) {
			t.Errorf("%s: time %v is not now", way.name, m.Time)
		}
		for i, e := range events {
			checkEmitted(t, m.Events[i], ids[i], e)
		}
	}
}

// awkwardPayloads are bytes that lose their shape in careless hands.
var awkwardPayloads = []string{
	"", " ", "null", " 1", "1\n", "{\"b\": 1.00,\t\"a\":\"<\\u003c&\u2028\", \"a\":2}", `"\ud800\u0000"`, "\x00\xff", "\"\xff\"", "[", "{}{}", "1e999999", "-0",
	strings.Repeat("[", 9990) + strings.Repeat("]", 9990), strings.Repeat(`{"a":`, 9999) + "1" + strings.Repeat("}", 9999), strings.Repeat("[", 10001) + strings.Repeat("]", 10001),
}

// checkEmitted compares an event with what was decoded of it.
func checkEmitted(t *testing.T, got outbox.Emitted, id outbox.ID, e outbox.Event) {
	t.Helper()
	if got.ID != id || got.AggregateType != e.AggregateType || got.AggregateID != e.AggregateID || got.Unkeyed || got.Type != e.Type {
		t.Errorf("event %+v with id %v is decoded as %+v", e, id, got)
	}
	if raw, ok := e.Payload.([]byte); ok && (got.Payload == nil || !bytes.Equal(got.Payload, raw)) {
		t.Errorf("payload %.60q is decoded as %.60q", raw, got.Payload)
	}
	if s, ok := e.Payload.(string); ok && string(got.Payload) != fmt.Sprintf("%q", s) {
		t.Errorf("payload %q is decoded as %s", s, got.Payload)
	}
	if e.Payload == nil && got.Payload != nil {
		t.Errorf("NULL payload is decoded as %q", got.Payload)
	}
	if want := json.Valid(got.Payload) && utf8.Valid(got.Payload); got.JSON != want {
		t.Errorf("payload %.60q: JSON is %v, want %v", got.Payload, got.JSON, want)
	}
	headers := make(map[string]string)
	for _, h := range got.Headers {
		headers[h.Name] = h.Value
	}
	if len(got.Headers) != len(e.Headers) || fmt.Sprint(headers) != fmt.Sprint(e.Headers) && len(headers) > 0 {
		t.Errorf("headers %q are decoded as %q", e.Headers, got.Headers)
	}
	if !slices.IsSortedFunc(got.Headers, func(a, b outbox.Header) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("headers %q are not sorted", got.Headers)
	}
}

func TestEmitSharesTheFateOfItsTransaction(t *testing.T) {
	conn := connect(t)
	w := newWAL(t, conn)
	emit := func(tx pgx.Tx, n int) {
		t.Helper()
		if _, err := outbox.Emit(t.Context(), tx, order(n)); err != nil {
			t.Fatal(err)
		}
	}
	tx := begin(t, conn)
	emit(tx, 1)
	savepoint, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	emit(savepoint, 2)
	if err := savepoint.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	emit(tx, 3)
	commit(t, tx)
	tx = begin(t, conn)
	emit(tx, 4)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range w.events(t) {
		got = append(got, string(e.Payload))
	}
	if !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("events %v were decoded, want 1 and 3", got)
	}
}

func TestEmitCutsMessagesAtTheirLimit(t *testing.T) {
	conn := connect(t)
	w := newWAL(t, conn)
	table := outbox.Table{MaxPayload: 3 * outbox.MaxMessage}
	small := strings.Repeat("s", 1000)
	var events []outbox.Event
	for range 2_100 { // a little over two messages
		events = append(events, order([]byte(`"`+small+`"`)))
	}
	huge := order([]byte(`"` + strings.Repeat("h", 2*outbox.MaxMessage) + `"`))
	events = append(events, huge, order(1), order(2))
	for _, way := range writers(t, conn) {
		ids, err := way.emit(table, events...)
		if err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		contents := w.contents(t)
		var decoded []outbox.Emitted
		for i, content := range contents {
			m, err := outbox.DecodeMessage(content)
			if err != nil {
				t.Fatal(err)
			}
			if len(content) > outbox.MaxMessage && len(m.Events) > 1 {
				t.Errorf("%s: message %d has %d events in %d bytes", way.name, i, len(m.Events), len(content))
			}
			decoded = append(decoded, m.Events...)
		}
		if len(contents) != 5 {
			t.Errorf("%s: %d messages, want 3, the huge event and the rest", way.name, len(contents))
		}
		if len(decoded) != len(events) {
			t.Fatalf("%s: %d events were decoded of %d", way.name, len(decoded), len(events))
		}
		for i := range events {
			checkEmitted(t, decoded[i], ids[i], events[i])
		}
	}
}

func TestEmitFillsAMessageToTheByte(t *testing.T) {
	first := order([]byte(`""`))
	size := func(n int) outbox.Event { return order([]byte(`"` + strings.Repeat("x", n) + `"`)) }
	around := len(emitted(t, first, size(0)))
	if got := len(emitted(t, first, size(outbox.MaxMessage-around))); got != outbox.MaxMessage {
		t.Errorf("two events that just fit are in a message of %d bytes", got)
	}
	if got := emitted(t, first, size(outbox.MaxMessage-around+1)); got != "" {
		t.Errorf("a message has %d bytes", len(got))
	}
}

// emitted returns the content that Emit sends if it is a single message, else
// the empty string.
func emitted(t *testing.T, events ...outbox.Event) string {
	t.Helper()
	tx := &recorder{}
	if _, err := (outbox.Table{MaxPayload: 2 * outbox.MaxMessage}).Emit(t.Context(), tx, events...); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(tx.queries[0], "unnest") {
		return ""
	}
	return tx.args[0][1].(string)
}
