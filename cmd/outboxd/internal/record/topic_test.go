package record_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
)

func TestTemplates(t *testing.T) {
	for _, test := range []struct{ template, topic string }{
		{"", "outbox.event.order"},
		{"fixed", "fixed"},
		{"{type}", "OrderPlaced"},
		{"{aggregatetype}.{aggregateid}-{type}_x", "order.o-17-OrderPlaced_x"},
		{"{type}{type}", "OrderPlacedOrderPlaced"},
	} {
		r, err := mustFormat(t, record.Options{Pipeline: "shop", Topic: test.template}).Record(order(), new(record.Arena))
		if err != nil || r.Topic != test.topic {
			t.Errorf("template %q: topic %q, error %v, want %q", test.template, r.Topic, err, test.topic)
		}
	}
}

func TestBadTemplates(t *testing.T) {
	for _, test := range []struct {
		broker         record.Broker
		template, want string
	}{
		{record.Kafka, "a.{agregatetype}", `template "a.{agregatetype}": unknown placeholder {agregatetype} at position 3; known: {aggregatetype}, {aggregateid}, {type}`},
		{record.Kafka, "{}", "unknown placeholder {} at position 1"},
		{record.Kafka, "{Type}", "unknown placeholder {Type}"},
		{record.Kafka, "a{type", "'{' at position 2 is not closed"},
		{record.Kafka, "a{type{type}", "'{' at position 2 is not closed"},
		{record.Kafka, "{type}}", "'}' at position 7 closes nothing"},
		{record.Kafka, "a}b", "'}' at position 2 closes nothing"},
		{record.Kafka, "out box.{type}", `"out box.": character ' ' at position 4`},
		{record.Kafka, ".", "Kafka reserves this name"},
		{record.Kafka, "..", "Kafka reserves this name"},
		{record.Kafka, strings.Repeat("a", 250), "250 bytes"},
		{record.Kafka, "{type}" + strings.Repeat("a", 250), "fixed text has 250 bytes, allowed are 249"},
		{record.RabbitMQ, strings.Repeat("a", 256) + "{type}", "fixed text has 256 bytes, allowed are 255"},
		{record.RabbitMQ, "\xff", "not valid UTF-8"},
	} {
		_, err := record.New(record.Options{Broker: test.broker, Pipeline: "shop", Topic: test.template})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("template %.40q: error %v, want %q in it", test.template, err, test.want)
		}
	}
}

func TestTopicOfAnEvent(t *testing.T) {
	for _, test := range []struct {
		broker record.Broker
		value  string
		detail string // empty: it is a topic
	}{
		{record.Kafka, "azAZ09._-", ""},
		{record.Kafka, "...", ""},
		{record.Kafka, strings.Repeat("a", 249), ""},
		{record.Kafka, strings.Repeat("a", 250), "it has 250 bytes, Kafka allows 249"},
		{record.Kafka, "", "it is empty"},
		{record.Kafka, ".", "reserves"},
		{record.Kafka, "..", "reserves"},
		{record.Kafka, "a b", "' ' at position 2"},
		{record.Kafka, "{type}", "'{' at position 1"},
		{record.Kafka, "a\x00", `'\x00' at position 2`},
		{record.Kafka, "ü", "'ü' at position 1"},
		{record.RabbitMQ, "{type} ü/#", ""},
		{record.RabbitMQ, strings.Repeat("a", 255), ""},
		{record.RabbitMQ, strings.Repeat("a", 256), "it has 256 bytes, AMQP allows 255"},
		{record.RabbitMQ, "", "it is empty"},
		{record.RabbitMQ, "a\xff", "not valid UTF-8"},
	} {
		f := mustFormat(t, record.Options{Broker: test.broker, Pipeline: "shop", Topic: "{aggregatetype}"})
		ev := order()
		ev.AggregateType = []byte(test.value)
		r, err := f.Record(ev, new(record.Arena))
		switch {
		case test.detail != "":
			wantPoison(t, err, record.ReasonBadTopic, test.detail)
		case err != nil:
			t.Errorf("%s %.20q: %v", test.broker, test.value, err)
		case r.Topic != test.value:
			t.Errorf("%s %.20q: topic %.20q", test.broker, test.value, r.Topic)
		}
	}
}

// Whatever a template and an event hold, the result is a legal topic or no
// record, and an event's text is never read as a template.
func FuzzTopic(f *testing.F) {
	f.Add("outbox.event.{aggregatetype}", []byte("order"), false)
	f.Add("{aggregatetype}", []byte("{type}"), true)
	f.Add("{", []byte(""), false)
	f.Add("a}{type}", []byte(".."), false)
	f.Fuzz(func(t *testing.T, template string, value []byte, rabbit bool) {
		broker := record.Kafka
		if rabbit {
			broker = record.RabbitMQ
		}
		format, err := record.New(record.Options{Broker: broker, Pipeline: "p", Topic: template})
		if err != nil {
			return
		}
		ev := &record.Event{ID: []byte("1"), AggregateType: value, AggregateID: value, Type: []byte("T")}
		r, err := format.Record(ev, new(record.Arena))
		if template == "" {
			template = record.DefaultTopic
			if rabbit {
				template = record.DefaultRoutingKey
			}
		}
		want := strings.NewReplacer("{aggregatetype}", string(value), "{aggregateid}", string(value), "{type}", "T").Replace(template)
		if legal := legalTopic(want, rabbit); legal != (err == nil) {
			t.Fatalf("%q: legal %t, error %v", want, legal, err)
		}
		if err == nil && r.Topic != want {
			t.Fatalf("topic %q, want %q", r.Topic, want)
		}
	})
}

func legalTopic(s string, rabbit bool) bool {
	if rabbit {
		return s != "" && len(s) <= 255 && utf8.ValidString(s)
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return s != "" && len(s) <= 249 && s != "." && s != ".." && strings.Trim(s, letters) == ""
}
