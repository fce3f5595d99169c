package rabbitmq

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/publisher"
)

func TestMessage(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	r := &publisher.Record{
		Topic: "a.b", Value: []byte("body"), ID: "id-1", Type: "placed", ContentType: "application/json", Time: at,
		Headers: []publisher.Header{
			{Name: "binary", Value: []byte{0, 0xff}}, {Name: "nil"},
			{Name: "twice", Value: []byte("1")}, {Name: "thrice", Value: []byte("a")},
			{Name: "thrice", Value: []byte("b")}, {Name: "twice", Value: []byte("2")}, {Name: "thrice", Value: []byte("a")},
		},
	}
	got, err := message(r, amqp.Persistent, limits{messageSize: 4, frameSize: frameSize})
	if err != nil {
		t.Fatal(err)
	}
	want := amqp.Publishing{
		MessageId: "id-1", Type: "placed", ContentType: "application/json", AppId: "outboxd", DeliveryMode: 2, Timestamp: at, Body: []byte("body"),
		Headers: amqp.Table{"binary": "\x00\xff", "nil": "", "twice": []any{"1", "2"}, "thrice": []any{"a", "b", "a"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, early := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1, 0)} {
		if m, err := message(&publisher.Record{Time: early}, 1, limits{}); err != nil || !m.Timestamp.IsZero() {
			t.Errorf("time %v becomes timestamp %v, %v", early, m.Timestamp, err)
		}
	}
}

func TestMessagePoison(t *testing.T) {
	limit := limits{messageSize: 1000, frameSize: 4096}
	long := strings.Repeat("x", 256)
	header := func(name string, value int) []publisher.Header {
		return []publisher.Header{{Name: name, Value: make([]byte, value)}}
	}
	for _, c := range []struct {
		name   string
		r      publisher.Record
		reason string
		detail string
	}{
		{"largest value", publisher.Record{Value: make([]byte, 1000)}, "", ""},
		{"value", publisher.Record{Value: make([]byte, 1001)}, "too_large", "1001 bytes, max_message_size is 1000"},
		{"longest strings", publisher.Record{Topic: long[1:], ID: long[1:], Type: long[1:], ContentType: long[1:], Headers: header(long[1:], 9)}, "", ""},
		{"routing key", publisher.Record{Topic: long}, "bad_topic", "routing key has 256"},
		{"message id", publisher.Record{ID: long}, "bad_record", "message id has 256"},
		{"type", publisher.Record{Type: long}, "bad_record", "type has 256"},
		{"content type", publisher.Record{ContentType: long}, "bad_record", "content type has 256"},
		{"header name", publisher.Record{Headers: header(long, 1)}, "bad_header", "name of 256"},
		{"header CC", publisher.Record{Headers: header("CC", 1)}, "bad_header", `"CC"`},
		{"header BCC", publisher.Record{Headers: header("BCC", 1)}, "bad_header", `"BCC"`},
		{"header cc", publisher.Record{Headers: header("cc", 1)}, "", ""},
		{"large headers", publisher.Record{Headers: header("x", 3990)}, "", ""},
		{"headers", publisher.Record{Headers: header("x", 4090)}, "bad_header", "one frame of 4096"},
	} {
		_, err := message(&c.r, 2, limit)
		if c.reason == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		var poison *publisher.PoisonError
		if !errors.As(err, &poison) || poison.Reason != c.reason || !strings.Contains(poison.Detail, c.detail) {
			t.Errorf("%s: %v, want %s … %s", c.name, err, c.reason, c.detail)
		}
	}
}

func TestDefaultMessageSize(t *testing.T) {
	for version, want := range map[any]int{
		"3.10.8": 128 << 20, "3.13.7": 128 << 20, "4.0.0": 16 << 20, "4.3.1": 16 << 20, "10.0": 16 << 20,
		"": 128 << 20, "unknown": 128 << 20, nil: 128 << 20,
	} {
		if got := defaultMessageSize(amqp.Table{"version": version}); got != want {
			t.Errorf("version %v: %d, want %d", version, got, want)
		}
	}
}
