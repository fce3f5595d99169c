package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// expectPoison checks what the relay stopped with.
func (b *bench) expectPoison(parts ...string) {
	b.t.Helper()
	stop := b.stopped()
	if stop.Fault.Class != relay.Poison || stop.Fault.Exit != relay.ExitFailed || stop.Fault.Fix == "" {
		b.t.Errorf("fault %+v", stop.Fault)
	}
	for _, part := range parts {
		if !strings.Contains(stop.Error(), part) {
			b.t.Errorf("%q does not say %q", stop.Error(), part)
		}
	}
}

func tooLarge() error {
	return &publisher.PoisonError{Reason: "too_large", Detail: "2 MB, max.message.bytes is 1 MB"}
}

// TestPoisonRefused: the broker can never take e004. Those before it are
// published, also when they were given up because of it: e002 is slow and of
// another key. Nothing at or behind it in its key is.
func TestPoisonRefused(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Lanes = 64       // a key a lane, nearly
		var attempts atomic.Int32 // at the poison event
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			switch r.ID {
			case event(2):
				return publishertest.Answer{After: time.Second}
			case event(4):
				attempts.Add(1)
				return publishertest.Answer{Err: tooLarge()}
			}
			return publishertest.Answer{}
		}
		for i, key := range []string{"a", "b", "c", "b", "b", "b", "a"} {
			b.slot.insert(event(i), key)
		}
		b.start()
		b.expectPoison(event(4), "0001.0000000000001400.00000000", `aggregate id "b"`, "too_large", "max.message.bytes")
		for i := range 4 {
			if !b.has(event(i)) {
				t.Errorf("%s is before the poison event and was not published", event(i))
			}
		}
		if b.has(event(4)) || b.has(event(5)) {
			t.Errorf("published past the poison event: %s", b.stored())
		}
		if strings.Contains(b.slot.ackedIDs(), event(4)) {
			t.Error("the poison event was acked")
		}
		if n := attempts.Load(); n != 1 {
			t.Errorf("the poison event was sent %d times: the second session must stop in front of it", n)
		}
	})
}

// TestPoisonWaitsForTheWorld: an event before the poison event is held. That is
// retried as ever; the stop comes when it has been published.
func TestPoisonWaitsForTheWorld(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Lanes = 1
		began := time.Now()
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(0) && time.Since(began) < time.Minute {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
			}
			return publishertest.Answer{}
		}
		b.slot.insert(event(0), "one")
		b.slot.insert(event(1), "NULL")
		b.start()
		settle(30 * time.Second)
		if s := b.Status(); s.Phase != relay.Holding && s.Phase != relay.Retrying || s.Ready {
			t.Errorf("status %+v", s)
		}
		b.expectPoison(event(1), "missing_key")
		b.expect("stored", b.stored(), event(0))
	})
}

// TestPoisonEvent: no record can be made of the second event.
func TestPoisonEvent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: time.Second}
		}
		b.slot.insert(event(0), "one")
		b.slot.insert(event(1), "NULL")
		b.slot.insert(event(2), "one")
		b.start()
		b.expectPoison(event(1), "0001.0000000000001100.00000000", "missing_key", "--allow-unkeyed")
		b.expect("stored", b.stored(), event(0))
		b.expect("acked", b.slot.ackedIDs(), event(0))
	})
}

// TestPoisonBehindBrokenPublisher: Publish returns the culprit's error for
// another record, maybe before the culprit's own outcome. The wrong event must
// not be blamed.
func TestPoisonBehindBrokenPublisher(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.OpenPublisher = func(_ context.Context, done publisher.Done, _ publisher.Guard) (publisher.Publisher, error) {
			return &late{done: done}, nil
		}
		b.slot.insert(event(0), "one")
		b.slot.insert(event(1), "two")
		b.start()
		b.expectPoison(event(0))
		b.expect("in flight", b.exposed("outboxd_inflight_events"), "0")
		b.expect("sessions", b.exposed(`outboxd_sessions_total{reason="poison"}`), "1")
	})
}

// late reports its first record as poison when it is closed, and says so to
// Publish before that.
type late struct {
	done publisher.Done
	bad  *publisher.Record
}

func (p *late) Publish(_ context.Context, r *publisher.Record) error {
	if p.bad != nil {
		return tooLarge()
	}
	p.bad = r
	return nil
}

func (p *late) Close(context.Context) error {
	p.done(p.bad, tooLarge())
	return nil
}

// TestPoisonInItsTurn: a record that is doomed before it is sent waits for its
// turn behind others, and the next Publish is declined because of it meanwhile.
// It must not be closed over, or nobody would ever learn which record it was.
func TestPoisonInItsTurn(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.OpenPublisher = func(_ context.Context, done publisher.Done, _ publisher.Guard) (publisher.Publisher, error) {
			return &doomed{done: done, closed: make(chan struct{})}, nil
		}
		b.slot.published = nil
		b.slot.insert(event(0), "one")
		b.slot.insert(event(1), "two")
		b.slot.insert(event(2), "three")
		b.start()
		b.expectPoison(event(1), "too_large")
		b.expect("acked", b.slot.ackedIDs(), event(0))
	})
}

// doomed acks its first record after a second, and then reports the second as
// poison, unless it is closed before; it declines the third.
type doomed struct {
	done   publisher.Done
	taken  []*publisher.Record
	closed chan struct{}
	ended  sync.WaitGroup
}

func (p *doomed) Publish(_ context.Context, r *publisher.Record) error {
	if len(p.taken) == 2 {
		return fmt.Errorf("publisher is broken: %w", tooLarge())
	}
	p.taken = append(p.taken, r)
	if len(p.taken) == 2 {
		p.ended.Go(p.answer)
	}
	return nil
}

func (p *doomed) answer() {
	select {
	case <-time.After(time.Second):
		p.done(p.taken[0], nil)
		p.done(p.taken[1], tooLarge())
	case <-p.closed:
		p.done(p.taken[0], publisher.ErrClosed)
		p.done(p.taken[1], publisher.ErrClosed)
	}
}

func (p *doomed) Close(context.Context) error {
	close(p.closed)
	p.ended.Wait()
	return nil
}

func emit(content string, ids ...string) message {
	return message{ids: ids, Message: cdc.Message{Kind: cdc.Logical, Prefix: []byte("outboxd"), Content: []byte(content)}}
}

const (
	id1 = "0190d5a5-6c3a-7000-8000-000000000001"
	id2 = "0190d5a5-6c3a-7000-8000-000000000002"
	id3 = "0190d5a5-6c3a-7000-8000-000000000003"
)

// TestEmitted: events of one logical message, others' messages beside them.
func TestEmitted(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		fails := 1
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == id2 && fails > 0 {
				fails--
				return publishertest.Answer{Err: publisher.ErrUnknown}
			}
			return publishertest.Answer{}
		}
		foreign := emit(`not ours`)
		foreign.Prefix = []byte("debezium")
		b.slot.commit(foreign)
		b.slot.commit(emit(`{"events":[
			{"id":"`+id1+`","aggregatetype":"order","aggregateid":"7","type":"placed","payload":{"a": 1.10},"headers":{"traceparent":"00-x","n":"\"q\""}},
			{"id":"`+id2+`","aggregatetype":"order","aggregateid":"7","type":"paid","payload":null},
			{"id":"`+id3+`","aggregatetype":"order","aggregateid":"7","type":"signed","payload_base64":"AP8="}]}`, id1, id2, id3))
		b.start()
		settle(5 * time.Second)
		b.expect("stored", b.stored(), id1+" "+id2+" "+id3)
		first := b.broker.Stored()[0]
		b.expect("value", string(first.Value), `{"a": 1.10}`)
		for name, want := range map[string]string{"traceparent": "00-x", "n": `"q"`, "ce_sequence": "0001.0000000000001100.00000000"} {
			if got := header(first, name); got != want {
				t.Errorf("header %s is %q, want %q", name, got, want)
			}
		}
		second := b.broker.Stored()[1]
		if second.Value != nil {
			t.Errorf("a null payload became %q", second.Value)
		}
		third := b.broker.Stored()[2]
		b.expect("bytes", string(third.Value)+third.ContentType, "\x00\xffapplication/octet-stream")
		b.expect("content type", first.ContentType, "application/json")
		b.expect("ordinal", header(second, "ce_sequence"), "0001.0000000000001100.00000001")
		b.expect("ignored", b.exposed("outboxd_messages_ignored_total"), "2") // once a session
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

func header(r publisher.Record, name string) string {
	for _, h := range r.Headers {
		if h.Name == name {
			return string(h.Value)
		}
	}
	return ""
}

func TestEmittedMalformed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.slot.insert(event(0), "one")
		b.slot.commit(emit(`{"events":[`, "unknown"))
		b.start()
		b.expectPoison("0001.0000000000001100.00000000", "bad_record", "logical message")
		b.expect("stored", b.stored(), event(0))
	})
}

// TestForeignTable: rows of a table that somebody added to the publication are
// no events. They are named once and counted, and move no ordinal.
func TestForeignTable(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		other := *outboxTable
		other.Name = "customers"
		for range 3 {
			b.slot.commit(message{Message: cdc.Message{Kind: cdc.Insert, Relation: &other, Row: row("1", "2", "3", "4", "5")}})
		}
		b.slot.insert(event(0), "one")
		b.start()
		settle(time.Second)
		b.expect("stored", b.stored(), event(0))
		b.expect("ignored", b.exposed("outboxd_messages_ignored_total"), "3")
		if b.logged.count("table=public.customers") != 1 {
			t.Errorf("log:\n%s", b.logged)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestColumnsOfWhatIsPublished: a row that comes again and was published before is
// passed over, also if its columns had other names then.
func TestColumnsOfWhatIsPublished(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		before := *outboxTable
		before.Columns = slices.Clone(outboxTable.Columns)
		before.Columns[4].Name = "body"
		b.slot.commit(message{ids: []string{event(0)}, Message: cdc.Message{Kind: cdc.Insert, Relation: &before, Row: row(event(0), "2", "3", "4", "5")}})
		b.slot.forget()
		b.slot.insert(event(1), "one")
		b.start()
		settle(time.Second)
		b.expect("stored", b.stored(), event(1))
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestMissingColumns: all of them are named, and the relay does not guess.
func TestMissingColumns(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.Columns = relay.Columns{ID: "event_id", Payload: "body"}
		b.slot.insert(event(0), "one")
		b.start()
		stop := b.stopped()
		if stop.Fault.Exit != relay.ExitConfig || !strings.Contains(stop.Fault.Fix, "--columns") {
			t.Errorf("%+v", stop.Fault)
		}
		b.expect("error", stop.Error(), "read table public.outbox: no column event_id, body (it has id, aggregatetype, aggregateid, type, payload)")
	})
}
