package relay

import (
	"errors"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/outbox"
	"github.com/outboxd/outboxd/publisher"
)

func logical(content string) *cdc.Message {
	return &cdc.Message{Kind: cdc.Logical, Prefix: []byte(outbox.MessagePrefix), Content: []byte(content)}
}

func TestFromEmitted(t *testing.T) {
	m, ours, err := emitted(logical(`{"v":1,"time":"2026-11-24T20:15:00Z","events":[
		{"id":"` + uuidText + `","aggregatetype":"order","type":"placed","payload":{},"headers":{"a":"1","b":"<\u0000\"","a":"2"}},
		{"id":"` + uuidText + `","aggregatetype":"order","aggregateid":"","type":"placed","payload":null}]}`))
	if err != nil || !ours || len(m.Events) != 2 {
		t.Fatalf("%+v, %v, %v", m, ours, err)
	}
	var ev record.Event
	if err := fromEmitted(&m.Events[0], &m, &ev); err != nil {
		t.Fatal(err)
	}
	if ev.AggregateID != nil || string(ev.ID) != uuidText || !ev.Time.Equal(time.Date(2026, 11, 24, 20, 15, 0, 0, time.UTC)) {
		t.Errorf("%+v", ev)
	}
	var arena record.Arena
	headers, err := record.ParseHeaders(ev.Headers, nil, &arena)
	if err != nil {
		t.Fatalf("%s: %v", ev.Headers, err)
	}
	got := ""
	for _, h := range headers {
		got += h.Name + "=" + string(h.Value) + ";"
	}
	if want := "a=1;b=<\x00\";a=2;"; got != want {
		t.Errorf("headers %q, want %q", got, want)
	}
	// The next event must not keep anything of the one before.
	if err := fromEmitted(&m.Events[1], &m, &ev); err != nil {
		t.Fatal(err)
	}
	if ev.AggregateID == nil || len(ev.AggregateID) != 0 || ev.Payload != nil || ev.Headers != nil || ev.PayloadKind != record.JSON {
		t.Errorf("%+v", ev)
	}
}

func TestEmittedPrefix(t *testing.T) {
	m := logical(`{`)
	m.Prefix = []byte("outboxd2")
	if _, ours, err := emitted(m); ours || err != nil {
		t.Errorf("another prefix: ours %v, %v", ours, err)
	}
	_, ours, err := emitted(logical(`{`))
	var poison *publisher.PoisonError
	if !ours || !errors.As(err, &poison) || !errors.Is(err, outbox.ErrMalformed) {
		t.Errorf("malformed: ours %v, %v", ours, err)
	}
}
