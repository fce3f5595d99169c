package record_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

var update = flag.Bool("update", false, "write the golden files of testdata/records")

// created and committed differ in every digit that a record could mix up.
var (
	created   = time.Date(2026, 3, 1, 13, 14, 15, 120_000_000, time.FixedZone("", 2*60*60))
	committed = time.Date(2026, 3, 2, 3, 4, 5, 678_901_000, time.UTC).In(time.FixedZone("", -3*60*60))
)

// order is an event as services write it.
func order() *record.Event {
	return &record.Event{
		ID:            []byte("0195c3a4-7e00-7abc-8def-0123456789ab"),
		AggregateType: []byte("order"),
		AggregateID:   []byte("o-17"),
		Type:          []byte("OrderPlaced"),
		Payload:       []byte(`{"total": 10.50}`),
		Headers:       []byte(`{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}`),
		Time:          created,
		CommitTime:    committed,
		Position:      cdc.Position{Epoch: 1, Commit: 0x16B3748, Ordinal: 2},
	}
}

// cloudEventCases are the events of the golden files.
var cloudEventCases = []struct {
	name   string
	change func(ev *record.Event)
}{
	{"order", func(*record.Event) {}},
	{"created_at NULL", func(ev *record.Event) { ev.Time = time.Time{} }},
	{"created_at on the second", func(ev *record.Event) { ev.Time = created.Truncate(time.Second) }},
	{"created_at with microseconds", func(ev *record.Event) { ev.Time = created.Truncate(time.Second).Add(123456 * time.Microsecond) }},
	{"payload NULL", func(ev *record.Event) { ev.Payload = nil }},
	{"payload empty text", func(ev *record.Event) { ev.Payload, ev.PayloadKind = []byte{}, record.Text }},
	{"payload bytea", func(ev *record.Event) { ev.Payload, ev.PayloadKind = []byte{0, 0xff, '\n'}, record.Binary }},
	{"aggregateid NULL", func(ev *record.Event) { ev.AggregateID = nil }},
	{"aggregateid empty", func(ev *record.Event) { ev.AggregateID = []byte{} }},
	{"aggregateid awkward", func(ev *record.Event) { ev.AggregateID = []byte("a/ü 漢 🎉\"\n%41") }},
	{"headers NULL", func(ev *record.Event) { ev.Headers = nil }},
	{"headers of every kind", func(ev *record.Event) {
		ev.Headers = []byte(`{"s": "ü\u00fc\n", "n": 1.50, "t": true, "o": {"a": [1, 2]}, "null": null, "s": "again", "": "no name"}`)
	}},
	{"headers that claim our names", func(ev *record.Event) {
		ev.Headers = []byte(`{"ce_id": "x", "ce_custom": "kept", "cloudEvents_id": "x", "cloudEvents_custom": "kept", "outboxd-replayed": "true", "outboxd-retried": "true"}`)
	}},
	{"headers with a content type", func(ev *record.Event) {
		ev.Headers = []byte(`{"a": "1", "content-type": "application/avro", "b": "2"}`)
	}},
	{"replayed", func(ev *record.Event) { ev.Replayed, ev.Position = true, cdc.Position{} }},
	{"retried", func(ev *record.Event) { ev.Retried = true }},
}

func TestCloudEventsGolden(t *testing.T) {
	for _, broker := range []record.Broker{record.Kafka, record.RabbitMQ} {
		t.Run(string(broker), func(t *testing.T) {
			f := mustFormat(t, record.Options{Broker: broker, Pipeline: "shop", AllowUnkeyed: true})
			var arena record.Arena
			var got bytes.Buffer
			for _, c := range cloudEventCases {
				ev := order()
				c.change(ev)
				r, err := f.Record(ev, &arena)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				fmt.Fprintf(&got, "== %s\n", c.name)
				describe(&got, r)
			}
			compareGolden(t, "cloudevents_"+string(broker)+".golden", got.Bytes())
			if n := f.SkippedHeaders(); n != 3 {
				t.Errorf("%d headers skipped, want 3: the id and the two marks", n)
			}
		})
	}
}

// describe writes a record so that every difference shows.
func describe(w *bytes.Buffer, r *publisher.Record) {
	text := func(b []byte) string {
		if b == nil {
			return "nil"
		}
		return fmt.Sprintf("%q", b)
	}
	fmt.Fprintf(w, "topic %q\nkey %s\nvalue %s\n", r.Topic, text(r.Key), text(r.Value))
	for _, h := range r.Headers {
		fmt.Fprintf(w, "header %q: %s\n", h.Name, text(h.Value))
	}
	fmt.Fprintf(w, "id %q type %q content type %q time %s\n\n", r.ID, r.Type, r.ContentType, r.Time.Format(time.RFC3339Nano))
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join(testdata, name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s line %d: got %s; if it is meant, run go test -update and read the difference", name, i+1, g[i])
		}
	}
	t.Fatalf("%s has more lines than were made", name)
}

func TestCloudEventsPoison(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(ev *record.Event)
		reason string
		detail string
	}{
		{"id NULL", func(ev *record.Event) { ev.ID = nil }, record.ReasonMissingField, "id is NULL"},
		{"id empty", func(ev *record.Event) { ev.ID = []byte{} }, record.ReasonMissingField, "id is empty"},
		{"type NULL", func(ev *record.Event) { ev.Type = nil }, record.ReasonMissingField, "type is NULL"},
		{"type empty", func(ev *record.Event) { ev.Type = []byte{} }, record.ReasonMissingField, "type is empty"},
		{"aggregateid NULL", func(ev *record.Event) { ev.AggregateID = nil }, record.ReasonMissingKey, "aggregateid is NULL"},
		{"aggregatetype NULL", func(ev *record.Event) { ev.AggregateType = nil }, record.ReasonMissingField, `aggregatetype is NULL; the topic template "outbox.event.{aggregatetype}" needs it`},
		{"aggregatetype illegal", func(ev *record.Event) { ev.AggregateType = []byte("a/b") }, record.ReasonBadTopic, `'/' at position 15`},
		{"headers malformed", func(ev *record.Event) { ev.Headers = []byte(`{"a":}`) }, record.ReasonBadHeader, `headers column: want a value at position 6, found '}'`},
	} {
		t.Run(test.name, func(t *testing.T) {
			ev := order()
			test.change(ev)
			_, err := mustFormat(t, record.Options{Pipeline: "shop"}).Record(ev, new(record.Arena))
			wantPoison(t, err, test.reason, test.detail)
		})
	}
}

func TestAggregateTypeOnlyWhereNeeded(t *testing.T) {
	ev := order()
	ev.AggregateType = nil
	r, err := mustFormat(t, record.Options{Pipeline: "shop", Topic: "events"}).Record(ev, new(record.Arena))
	if err != nil {
		t.Fatal(err)
	}
	if r.Topic != "events" || strings.Contains(headerText(r), "aggregatetype") {
		t.Errorf("topic %q, headers %s", r.Topic, headerText(r))
	}
}

func TestSourceAndContentType(t *testing.T) {
	for _, test := range []struct {
		options     record.Options
		source      string
		contentType string
	}{
		{record.Options{Pipeline: "shop/ü"}, "/outboxd/shop%2F%C3%BC", "application/json"},
		{record.Options{Source: "https://example.com/shop", ContentType: "application/x"}, "https://example.com/shop", "application/x"},
	} {
		r, err := mustFormat(t, test.options).Record(order(), new(record.Arena))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"ce_source=" + test.source + " ", "content-type=" + test.contentType + " "} {
			if !strings.Contains(headerText(r), want) {
				t.Errorf("headers %s, want %q in them", headerText(r), want)
			}
		}
		if r.ContentType != test.contentType {
			t.Errorf("content type %q, want %q", r.ContentType, test.contentType)
		}
	}
}

// A row cannot pretend to be another event: whatever name of ours it uses, the
// record has it once, with our value.
func TestRowsCannotSetOurHeaders(t *testing.T) {
	for _, broker := range []record.Broker{record.Kafka, record.RabbitMQ} {
		f := mustFormat(t, record.Options{Broker: broker, Pipeline: "shop"})
		ev := order()
		ev.Replayed, ev.Retried, ev.Headers = true, true, nil
		honest, err := f.Record(ev, new(record.Arena))
		if err != nil {
			t.Fatal(err)
		}
		claims := map[string]string{}
		for _, h := range honest.Headers {
			if h.Name != "content-type" {
				claims[h.Name] = "forged"
			}
		}
		if ev.Headers, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
		got, err := f.Record(ev, new(record.Arena))
		if err != nil {
			t.Fatal(err)
		}
		if headerText(got) != headerText(honest) {
			t.Errorf("%s: headers %s, want %s", broker, headerText(got), headerText(honest))
		}
		if n := f.SkippedHeaders(); n != uint64(len(claims)) {
			t.Errorf("%s: %d headers skipped, want %d", broker, n, len(claims))
		}
	}
}

// Consumers compare the sequences of one key as text.
func TestSequenceSortsAsText(t *testing.T) {
	positions := []cdc.Position{
		{Epoch: 1, Commit: 9, Ordinal: 0xFFFFFFFF},
		{Epoch: 1, Commit: 0x10, Ordinal: 9},
		{Epoch: 1, Commit: 0x10, Ordinal: 10},
		{Epoch: 1, Commit: 0xFFFFFFFFFFFFFFFF},
		{Epoch: 2, Commit: 1},
		{Epoch: 10, Commit: 0},
		{Epoch: 0xFFFF, Commit: 0},
	}
	f := mustFormat(t, record.Options{Pipeline: "shop"})
	var arena record.Arena
	var sequences []string
	for _, p := range positions {
		ev := order()
		ev.Position = p
		r, err := f.Record(ev, &arena)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range r.Headers {
			if h.Name == "ce_sequence" {
				sequences = append(sequences, string(h.Value))
				if got, err := cdc.ParsePosition(string(h.Value)); err != nil || got != p {
					t.Errorf("sequence %s is read as %v, %v", h.Value, got, err)
				}
			}
		}
	}
	if len(sequences) != len(positions) || !sort.StringsAreSorted(sequences) {
		t.Errorf("sequences %v do not sort like their positions", sequences)
	}
}
