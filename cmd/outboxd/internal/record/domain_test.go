package record_test

import (
	"testing"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

// TestDomain: the domain of an event of which no record can be made is that of
// the record which there would be, as far as it can be told.
func TestDomain(t *testing.T) {
	event := func(change func(*record.Event)) *record.Event {
		ev := &record.Event{ID: []byte("1"), AggregateType: []byte("order"), AggregateID: []byte("7"), Type: []byte("placed"), Payload: []byte("{}")}
		change(ev)
		return ev
	}
	whole := event(func(*record.Event) {})
	tests := []struct {
		name        string
		options     record.Options
		event       *record.Event
		destination string
		key         string // "-": none
	}{
		{"Kafka", record.Options{}, whole, "outbox.event.order", "7"},
		{"a header is bad", record.Options{}, event(func(ev *record.Event) { ev.Headers = []byte("x") }), "outbox.event.order", "7"},
		{"no type", record.Options{}, event(func(ev *record.Event) { ev.Type = nil }), "outbox.event.order", "7"},
		{"an illegal topic", record.Options{}, event(func(ev *record.Event) { ev.AggregateType = []byte("a b") }), "", "-"},
		{"no key", record.Options{}, event(func(ev *record.Event) { ev.AggregateID = nil }), "", "-"},
		{"no key is needed", record.Options{AllowUnkeyed: true}, event(func(ev *record.Event) { ev.AggregateID = nil }), "outbox.event.order", "-"},
		{"RabbitMQ has one exchange", record.Options{Broker: record.RabbitMQ}, whole, "", "7"},
		{"an illegal routing key", record.Options{Broker: record.RabbitMQ}, event(func(ev *record.Event) { ev.Type = []byte("\xff") }), "", "7"},
		{"JSON keys", record.Options{Style: record.DebeziumRouter, Debezium: record.Debezium{Converter: record.JSONConverter}}, whole, "outbox.event.order", `"7"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Pipeline = "p"
			f, err := record.New(tt.options)
			if err != nil {
				t.Fatal(err)
			}
			expect := func(what, destination string, key []byte) {
				got := string(key)
				if key == nil {
					got = "-"
				}
				if destination != tt.destination || got != tt.key {
					t.Errorf("%s: %q %s, want %q %s", what, destination, got, tt.destination, tt.key)
				}
			}
			var arena record.Arena
			destination, key := f.DomainOf(tt.event, &arena)
			expect("event", destination, key)
			var r *publisher.Record
			if r, err = f.Record(tt.event, &arena); err == nil {
				destination, key = f.Domain(r)
				expect("record", destination, key)
			}
		})
	}
}
