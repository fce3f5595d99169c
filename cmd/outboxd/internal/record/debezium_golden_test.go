package record_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

// testdata holds the files of testdata/records: see its README.
const testdata = "../../../../testdata/records"

// row is one row of the recorded run, as PostgreSQL renders it.
type row struct {
	Table                             string
	ID, AggregateType, AggregateID    *string
	Type, Payload, Headers, CreatedAt *string
}

func (r *row) UnmarshalJSON(b []byte) error {
	var m map[string]*string
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*r = row{
		Table: *m["table"], ID: m["id"], AggregateType: m["aggregatetype"], AggregateID: m["aggregateid"],
		Type: m["type"], Payload: m["payload"], Headers: m["headers"], CreatedAt: m["created_at"],
	}
	return nil
}

func (r *row) event(t *testing.T) *record.Event {
	t.Helper()
	ev := &record.Event{
		ID: bytesOf(r.ID), AggregateType: bytesOf(r.AggregateType), AggregateID: bytesOf(r.AggregateID),
		Type: bytesOf(r.Type), Payload: bytesOf(r.Payload), Headers: bytesOf(r.Headers),
	}
	if r.CreatedAt != nil {
		at, err := time.Parse(time.RFC3339Nano, *r.CreatedAt)
		if err != nil {
			t.Fatal(err)
		}
		ev.Time = at
	}
	return ev
}

func bytesOf(s *string) []byte {
	if s == nil {
		return nil
	}
	return []byte(*s)
}

func readRows(t *testing.T) []row {
	t.Helper()
	f, err := os.Open(filepath.Join(testdata, "rows.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return decodeLines[row](t, f)
}

// recorded is a record that Debezium wrote to Kafka.
type recorded struct {
	Topic   string
	Key     *string
	Headers [][2]*string
	Value   *string
}

// id is the event id, which every recorded record has in its header.
func (r *recorded) id() string {
	for _, h := range r.Headers {
		if *h[0] == "id" {
			return *h[1]
		}
	}
	return ""
}

// own are the headers without those that name a run of Kafka Connect.
func (r *recorded) own() [][2]*string {
	var own [][2]*string
	for _, h := range r.Headers {
		if !strings.HasPrefix(*h[0], "__debezium.context.") {
			own = append(own, h)
		}
	}
	return own
}

func readRecorded(t *testing.T, variant string) []recorded {
	t.Helper()
	f, err := os.Open(filepath.Join(testdata, "debezium_"+variant+".jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return decodeLines[recorded](t, z)
}

func decodeLines[T any](t *testing.T, r interface{ Read([]byte) (int, error) }) []T {
	t.Helper()
	var all []T
	d := json.NewDecoder(bufio.NewReader(r))
	for d.More() {
		var one T
		if err := d.Decode(&one); err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

// Each variant of the recorded run that needs neither schemas nor the
// expansion of payloads, with the options that say the same.
var debeziumVariants = []struct {
	name    string
	records int
	topic   string
	options record.Debezium
}{
	{"ob01_default_string", 21, "", record.Debezium{}},
	{"ob02_default_json", 21, "ob02.outbox.event.{aggregatetype}", record.Debezium{Converter: record.JSONConverter}},
	{"ob07_placement_header_string", 21, "ob07.outbox.event.{aggregatetype}", record.Debezium{
		Placement: "type:header,type:header:eventType,headers:header:hdrs,created_at:header:createdAt",
	}},
	{"ob08_placement_envelope_json", 21, "ob08.outbox.event.{aggregatetype}", record.Debezium{
		Converter: record.JSONConverter,
		Placement: "type:envelope:eventType,headers:envelope,created_at:envelope:createdAt,aggregateid:header:aggId",
	}},
	{"ob11_tombstone_on_empty", 21, "ob11.outbox.event.{aggregatetype}", record.Debezium{TombstoneOnEmpty: true}},
	{"ob13_route_by_type_regex", 19, "ob13.{routedByValue}", record.Debezium{
		RouteBy: "type", RouteRegex: "(?<routedByValue>[A-Z][a-z]+).*",
	}},
	{"ob14_missing_column_ignore", 21, "ob14.outbox.event.{aggregatetype}", record.Debezium{
		Placement: "nosuch:header", IgnoreMissing: true,
	}},
	{"ob16_invalid_op_fatal", 17, "ob16.outbox.event.{aggregatetype}", record.Debezium{}},
	{"ob19_invalid_op_error", 21, "ob19.outbox.event.{aggregatetype}", record.Debezium{}},
}

func TestDebeziumRecords(t *testing.T) {
	rows := readRows(t)
	for _, v := range debeziumVariants {
		t.Run(v.name, func(t *testing.T) {
			f := mustFormat(t, record.Options{Style: record.DebeziumRouter, Topic: v.topic, AllowUnkeyed: true, Debezium: v.options})
			want := readRecorded(t, v.name)
			if len(want) != v.records {
				t.Fatalf("%d recorded records, want %d", len(want), v.records)
			}
			var arena record.Arena
			got := map[string]*publisher.Record{}
			for i := range rows {
				ev := rows[i].event(t)
				if v.name == "ob13_route_by_type_regex" {
					ev.AggregateID = ev.ID // table.field.event.key=id: a matter of the table's columns
				}
				if r, err := f.Record(ev, &arena); err == nil {
					got[string(ev.ID)] = r
				}
			}
			for i := range want {
				compareRecorded(t, &want[i], got[want[i].id()])
			}
		})
	}
}

func compareRecorded(t *testing.T, want *recorded, got *publisher.Record) {
	t.Helper()
	if got == nil {
		t.Errorf("event %s: no record", want.id())
		return
	}
	if got.Topic != want.Topic {
		t.Errorf("event %s: topic %q, want %q", want.id(), got.Topic, want.Topic)
	}
	compareText(t, want.id()+" key", got.Key, want.Key)
	compareText(t, want.id()+" value", got.Value, want.Value)
	headers := want.own()
	if len(headers) != len(got.Headers) {
		t.Errorf("event %s: %d headers, want %d: %v", want.id(), len(got.Headers), len(headers), got.Headers)
		return
	}
	for i, h := range headers {
		if got.Headers[i].Name != *h[0] {
			t.Errorf("event %s: header %d is %q, want %q", want.id(), i, got.Headers[i].Name, *h[0])
		}
		compareText(t, want.id()+" header "+*h[0], got.Headers[i].Value, h[1])
	}
}

func compareText(t *testing.T, what string, got []byte, want *string) {
	t.Helper()
	if (got == nil) != (want == nil) {
		t.Errorf("event %s: nil is %t, want %t", what, got == nil, want == nil)
		return
	}
	if want != nil && string(got) != *want {
		t.Errorf("event %s:\n got %q\nwant %q", what, got, *want)
	}
}

// What killed Debezium's task is poison here, one event and not the pipeline.
func TestDebeziumPoison(t *testing.T) {
	f := mustFormat(t, record.Options{Style: record.DebeziumRouter})
	route := mustFormat(t, record.Options{
		Style: record.DebeziumRouter, Topic: "{routedByValue}",
		Debezium: record.Debezium{RouteBy: "type", RouteRegex: "(?<routedByValue>.*)"},
	})
	byID := map[string]*record.Event{}
	rows := readRows(t)
	for i := range rows {
		byID[*rows[i].ID] = rows[i].event(t)
	}
	noID := *byID["00000000-0000-0000-0000-000000000002"]
	noID.ID = nil
	for _, test := range []struct {
		name   string
		format *record.Format
		event  *record.Event
		reason string
		detail string
	}{
		{"null aggregatetype", f, byID["00000000-0000-0000-0000-000000000301"], record.ReasonMissingField, "aggregatetype is NULL"},
		{"illegal topic", f, byID["00000000-0000-0000-0000-00000000000b"], record.ReasonBadTopic, `"outbox.event.Odd Type/ü.x": character ' ' at position 17`},
		{"null aggregateid", f, byID["00000000-0000-0000-0000-000000000009"], record.ReasonMissingKey, "--allow-unkeyed"},
		{"null id", f, &noID, record.ReasonMissingField, "id is NULL"},
		{"null route", route, byID["00000000-0000-0000-0000-00000000000c"], record.ReasonMissingField, "type is NULL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.format.Record(test.event, new(record.Arena))
			wantPoison(t, err, test.reason, test.detail)
		})
	}
}

func TestDebeziumRouteThatDoesNotMatch(t *testing.T) {
	f := mustFormat(t, record.Options{
		Style: record.DebeziumRouter, Topic: "x.{1}",
		Debezium: record.Debezium{RouteRegex: "a(b)?|c"},
	})
	for aggregateType, want := range map[string]string{"ab": "x.b", "a": "x.", "c": "x.", "abc": "abc", "cab": "cab"} {
		ev := &record.Event{ID: []byte("1"), AggregateID: []byte("k"), AggregateType: []byte(aggregateType)}
		r, err := f.Record(ev, new(record.Arena))
		if err != nil {
			t.Fatal(err)
		}
		if r.Topic != want {
			t.Errorf("aggregate type %q: topic %q, want %q", aggregateType, r.Topic, want)
		}
	}
}

func TestDebeziumValues(t *testing.T) {
	binary := []byte{0xde, 0xad, 0xbe, 0xef, 0, 0xff}
	for _, test := range []struct {
		name        string
		options     record.Debezium
		payload     []byte
		kind        record.PayloadKind
		value       string
		null        bool
		contentType string
	}{
		{"bytes", record.Debezium{}, binary, record.Binary, string(binary), false, "application/octet-stream"},
		{"bytes as JSON", record.Debezium{Converter: record.JSONConverter}, binary, record.Binary, `"3q2+7wD/"`, false, "application/json"},
		{"no bytes as JSON", record.Debezium{Converter: record.JSONConverter}, nil, record.Binary, `null`, false, "application/json"},
		{"empty text", record.Debezium{}, []byte{}, record.Text, "", false, "text/plain; charset=utf-8"},
		{"tombstone of an empty text", record.Debezium{TombstoneOnEmpty: true}, []byte{}, record.Text, "", true, "text/plain; charset=utf-8"},
		{"tombstone of NULL as JSON", record.Debezium{Converter: record.JSONConverter, TombstoneOnEmpty: true}, nil, record.JSON, "", true, "application/json"},
		// The text and its form are those of a column in a recorded change event.
		{"quoting", record.Debezium{Converter: record.JSONConverter}, []byte(`text 'q' "dq" \ back ü 漢 🎉`), record.Text,
			`"text 'q' \"dq\" \\ back ü 漢 \uD83C\uDF89"`, false, "application/json"},
		{"control characters", record.Debezium{Converter: record.JSONConverter}, []byte("\b\t\n\f\r\x00\x1f\x7f</&>\u2028"), record.Text,
			`"\b\t\n\f\r\u0000\u001F` + "\x7f</&>\u2028" + `"`, false, "application/json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := mustFormat(t, record.Options{Style: record.DebeziumRouter, Debezium: test.options})
			r, err := f.Record(&record.Event{
				ID: []byte("1"), AggregateID: []byte("k"), AggregateType: []byte("a"), Payload: test.payload, PayloadKind: test.kind,
			}, new(record.Arena))
			if err != nil {
				t.Fatal(err)
			}
			if string(r.Value) != test.value || (r.Value == nil) != test.null {
				t.Errorf("value %q (nil %t), want %q (nil %t)", r.Value, r.Value == nil, test.value, test.null)
			}
			if r.ContentType != test.contentType {
				t.Errorf("content type %q, want %q", r.ContentType, test.contentType)
			}
		})
	}
}

func TestDebeziumMarksAndProperties(t *testing.T) {
	f := mustFormat(t, record.Options{Style: record.DebeziumRouter, ContentType: "application/x"})
	r, err := f.Record(&record.Event{
		ID: []byte("1"), AggregateID: []byte("k"), AggregateType: []byte("a"), Type: []byte("T"), Replayed: true, Retried: true,
		CommitTime: committed,
	}, new(record.Arena))
	if err != nil {
		t.Fatal(err)
	}
	if got := headerText(r); got != "id=1 outboxd-replayed=true outboxd-retried=true" {
		t.Errorf("headers %s", got)
	}
	if r.ID != "1" || r.Type != "T" || r.ContentType != "application/x" || !r.Time.Equal(committed) {
		t.Errorf("message properties: id %q, type %q, content type %q, time %v", r.ID, r.Type, r.ContentType, r.Time)
	}
}

func wantPoison(t *testing.T, err error, reason, detail string) {
	t.Helper()
	var p *publisher.PoisonError
	if !errors.As(err, &p) {
		t.Fatalf("error %v, want a *publisher.PoisonError", err)
	}
	if p.Reason != reason || !strings.Contains(p.Error(), detail) {
		t.Errorf("poison %v, want reason %s and %q in it", p, reason, detail)
	}
}

func mustFormat(t testing.TB, o record.Options) *record.Format {
	t.Helper()
	f, err := record.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func headerText(r *publisher.Record) string {
	var all []string
	for _, h := range r.Headers {
		all = append(all, h.Name+"="+string(h.Value))
	}
	return strings.Join(all, " ")
}
