package relay_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// refuse makes the broker refuse the events of ids as too large, while it is to.
func refuse(ids ...string) (script func(*publisher.Record) publishertest.Answer, accept func()) {
	var mended atomic.Bool
	return func(r *publisher.Record) publishertest.Answer {
		for _, id := range ids {
			if r.ID == id && !mended.Load() {
				return publishertest.Answer{Err: tooLarge()}
			}
		}
		return publishertest.Answer{}
	}, func() { mended.Store(true) }
}

// insertKeys commits one event of each key, in this order.
func (b *bench) insertKeys(first int, keys ...string) {
	for i, key := range keys {
		b.slot.insert(event(first+i), key)
	}
}

// insertUnmakeable commits an event of which no record can be made: it has no type.
func (b *bench) insertUnmakeable(n int, key string) {
	m := cdc.Message{Kind: cdc.Insert, Relation: outboxTable, Row: row(event(n), "order", key, "NULL", "{}")}
	b.slot.commit(message{ids: []string{event(n)}, Message: m})
}

// silence has the broker answer nothing until sound is called.
func (b *bench) silence() (sound func()) {
	var silent atomic.Bool
	silent.Store(true)
	b.broker.Script = func(*publisher.Record) publishertest.Answer {
		if silent.Load() {
			return publishertest.Answer{After: time.Hour}
		}
		return publishertest.Answer{}
	}
	return func() { silent.Store(false) }
}

// running fails the test when the relay has stopped by itself.
func (b *bench) running() {
	b.t.Helper()
	select {
	case err := <-b.result:
		b.t.Fatalf("the relay stopped: %v", err)
	default:
	}
}

// order is what the broker holds of a key, in the order of arrival.
func (b *bench) order(key string) string {
	var ids []string
	for _, r := range b.broker.Stored() {
		if string(r.Key) == key {
			ids = append(ids, r.ID)
		}
	}
	return strings.Join(ids, " ")
}

// TestParkRefused: the broker can never take e001. It and what comes later of
// its key are parked, the others go on, and everything is acked.
func TestParkRefused(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.broker.Script, _ = refuse(event(1))
		b.insertKeys(0, "a", "a", "a", "b", "a")
		b.start()
		settle(time.Second)
		b.running()
		b.expect("parked", y.parked(), "e001:too_large e002:behind e004:behind")
		b.expect("a", b.order("a"), "e000")
		b.expect("b", b.order("b"), "e003")
		if n := strings.Count(b.slot.ackedIDs(), "e"); n != 5 {
			t.Errorf("acked: %s", b.slot.ackedIDs())
		}
		b.expect("counted", b.exposed(`outboxd_events_parked_total{reason="behind"}`)+b.exposed(`outboxd_events_parked_total{reason="too_large"}`), "21")
		b.expect("gauges", b.exposed("outboxd_parked_events")+b.exposed("outboxd_parked_keys"), "31")
		b.expectFlowing()
		if n := b.logged.count("parked an event that cannot be published"); n != 1 {
			t.Errorf("%d lines on parked events:\n%s", n, b.logged)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestKnownPoisonEndsNoSession: the publisher knows that it can take neither e001
// nor e004. They are parked while everything else goes on, and nothing comes
// twice.
func TestKnownPoisonEndsNoSession(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.broker.Limit = limit(event(1), event(4))
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: 100 * time.Millisecond}
		}
		b.insertKeys(0, "a", "a", "b", "a", "b", "c", "b")
		b.start()
		settle(10 * time.Second)
		b.expect("parked", y.parked(), "e001:too_large e003:behind e004:too_large e006:behind")
		b.expect("a", b.order("a"), "e000")
		b.expect("b", b.order("b"), "e002")
		b.expect("c", b.order("c"), "e005")
		if opened, _ := b.slot.sessions(); opened != 1 {
			t.Errorf("%d sessions", opened)
		}
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// limit has the publisher know that it cannot take the events of ids.
func limit(ids ...string) func(*publisher.Record) error {
	return func(r *publisher.Record) error {
		if slices.Contains(ids, r.ID) {
			return tooLarge()
		}
		return nil
	}
}

// TestEarlierEventIsNotParked: e000 is on its way when e001 of its key is
// parked, and its outcome is lost. It is published again: nothing is wrong with
// it, and it waits for nothing.
func TestEarlierEventIsNotParked(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.broker.Limit = limit(event(1))
		sound := b.silence()
		b.insertKeys(0, "a", "a", "a")
		b.start()
		settle(3 * time.Second)
		b.expect("parked before", y.parked(), "e001:too_large e002:behind")
		sound()
		b.broker.Cut()
		settle(3 * time.Second)
		b.expect("parked", y.parked(), "e001:too_large e002:behind")
		b.expect("a", b.order("a"), "e000")
		b.broker.Limit = nil
		y.mark(parked.Retry, event(1))
		settle(3 * time.Second)
		b.expect("released", b.order("a"), "e000 e001 e002")
		_ = b.finish()
	})
}

// TestParkUnmakeable: no record can be made of the events: NULL id, and a
// message that cannot be decoded. Neither has a domain.
func TestParkUnmakeable(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.slot.insert(event(0), "a")
		b.slot.insert(event(1), "NULL")
		b.slot.commit(emit(`{"events":[`, "unknown"))
		b.slot.insert(event(3), "NULL")
		b.slot.insert(event(4), "a")
		b.slot.published = nil
		b.start()
		settle(time.Second)
		b.expect("parked", y.parked(), "e001:missing_key :bad_record e003:missing_key")
		b.expect("stored", b.stored(), "e000 e004")
		b.expect("keys", b.exposed("outboxd_parked_keys"), "0")
		b.expect("sessions", b.exposed("outboxd_sessions_total"), "")
		y.mu.Lock()
		raw := y.sorted()[1]
		if !raw.Raw || string(raw.Payload) != `{"events":[` {
			t.Errorf("the raw message became %q", raw.Payload)
		}
		y.mu.Unlock()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestParkKnowsDomainOfBadEvent: no record can be made because the type is
// missing, and yet the key's later events wait.
func TestParkKnowsDomainOfBadEvent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.insertUnmakeable(0, "a")
		b.insertKeys(1, "a", "b")
		b.start()
		settle(time.Second)
		b.expect("parked", y.parked(), "e000:missing_field e001:behind")
		b.expect("stored", b.stored(), "e002")
		_ = b.finish()
	})
}

// TestParkAlone: under park the successors of a poison event go on.
func TestParkAlone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.Park)
		b.broker.Script, _ = refuse(event(1))
		b.insertKeys(0, "a", "a", "a")
		b.start()
		settle(time.Second)
		b.expect("parked", y.parked(), "e001:too_large")
		b.expect("a", b.order("a"), "e000 e002")
		_ = b.finish()
	})
}

// TestParkAloneKeepsOrder: also under park what comes of a key that is parked
// already waits for it.
func TestParkAloneKeepsOrder(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, _ := parkedKey(t)
		_ = b.finish()
		b.Parking.Policy = relay.Park
		b.insertKeys(4, "a")
		b.start()
		settle(time.Second)
		y.mark(parked.Retry)
		settle(10 * time.Second)
		b.expect("parked", y.parked(), "e000:too_large e001:behind e003:behind e004:behind")
		b.expect("a", b.order("a"), "")
		_ = b.finish()
	})
}

// TestParkWaitsForRoom: what waits to be written is bounded, and one larger
// event passes alone.
func TestParkWaitsForRoom(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		durable := make(chan error)
		y.write = func() error { return <-durable }
		b.start()
		for i, size := range []int{10, 400_000, 400_000, 400_000, 3_000_000, 10} {
			b.slot.commit(message{ids: []string{event(i)}, Message: cdc.Message{
				Kind: cdc.Insert, Relation: outboxTable, Row: row(event(i), "order", "NULL", "placed", `"`+strings.Repeat("x", size)+`"`),
			}})
			settle(time.Second) // the first is being written when the others come
		}
		var writes []string
		for len(writes) < 5 {
			select {
			case durable <- nil:
			case <-time.After(time.Minute):
				t.Fatalf("no write after %q", writes)
			}
			settle(time.Second)
			writes = append(writes, b.slot.ackedIDs())
		}
		b.expect("writes", strings.Join(writes, "\n"), strings.Join([]string{
			"e000", "e000 e001 e002", "e000 e001 e002 e003", "e000 e001 e002 e003 e004", "e000 e001 e002 e003 e004 e005",
		}, "\n"))
		_ = b.finish()
	})
}

// TestParkedPositionOfAnother: a row at the event's position that is another
// event's does not stand for it.
func TestParkedPositionOfAnother(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.slot.insert(event(0), "NULL")
		b.start()
		settle(time.Second)
		_ = b.finish()
		for _, r := range y.rows {
			r.ID = []byte("another")
		}
		b.slot.crash()
		b.Format = unkeyed(t)
		b.start()
		settle(time.Second)
		b.expect("stored", b.stored(), "e000")
		_ = b.finish()
	})
}

// TestStopKeepsOrder: with --poison stop the relay stops in front of a poison
// event; what was parked before keeps its order all the same.
func TestStopKeepsOrder(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.broker.Script, _ = refuse(event(0), event(3))
		b.insertKeys(0, "a")
		b.start()
		settle(time.Second)
		_ = b.finish()
		b.Parking.Policy = relay.Stop
		b.insertKeys(1, "a", "b", "c", "c")
		b.start()
		b.expectPoison(event(3), "too_large")
		b.expect("parked", y.parked(), "e000:too_large e001:behind")
		b.expect("stored", b.stored(), "e002")
	})
}

// TestParkAckWaitsForRow (P1): an event is acked when its row is durable, and
// not before.
func TestParkAckWaitsForRow(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		durable := make(chan error)
		y.write = func() error { return <-durable }
		b.slot.insert(event(0), "NULL")
		b.start()
		settle(time.Second)
		b.expect("acked before", b.slot.ackedIDs(), "")
		durable <- nil
		settle(time.Second)
		b.expect("acked after", b.slot.ackedIDs(), "e000")
		_ = b.finish()
	})
}

// TestParkWriteFails: the session ends, nothing is acked, the next one writes
// it.
func TestParkWriteFails(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		failures := 3
		y.write = func() error {
			if failures--; failures >= 0 {
				return &cdc.Error{Code: cdc.CodeUnreachable, Detail: "write parked events"}
			}
			return nil
		}
		b.broker.Script, _ = refuse(event(0))
		b.insertKeys(0, "a", "a", "b")
		b.start()
		settle(time.Minute)
		b.expect("parked", y.parked(), "e000:too_large e001:behind")
		b.expect("sessions", b.exposed(`outboxd_sessions_total{reason="database_unreachable"}`), "3")
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestWorldParksNothing (P3): what is held for a long time writes no row, also
// beside a parked key.
func TestWorldParksNothing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		began := time.Now()
		b.broker.Lanes = 1
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			switch {
			case r.ID == event(2):
				return publishertest.Answer{Err: tooLarge()}
			case string(r.Key) == "world" && time.Since(began) < 20*time.Minute:
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
			}
			return publishertest.Answer{}
		}
		b.insertKeys(0, "a", "world", "a", "world", "a")
		b.start()
		settle(10 * time.Minute)
		if s := b.Status(); s.Ready || s.Phase != relay.Holding {
			t.Errorf("status %+v", s)
		}
		settle(11 * time.Minute)
		b.expect("parked", y.parked(), "e002:too_large e004:behind")
		b.expect("world", b.order("world"), "e001 e003")
		_ = b.finish()
	})
}

// TestParkAcrossRestart (P2): another process knows what is parked before its
// first event, and takes what is sent again for parked.
func TestParkAcrossRestart(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		script, _ := refuse(event(0))
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(2) { // keeps the slot in front of e002
				return publishertest.Answer{After: time.Hour}
			}
			return script(r)
		}
		b.DrainTimeout = time.Second
		b.insertKeys(0, "a", "a", "b", "a")
		b.start()
		settle(time.Second)
		_ = b.finish()
		b.expect("parked", y.parked(), "e000:too_large e001:behind e003:behind")
		// The witness was not written: all of it comes again.
		b.slot.crash()
		b.Parking.MaxEvents = 4 // what is inside counts once
		b.broker.Script = nil
		b.insertKeys(4, "a", "b")
		b.start()
		settle(time.Second)
		b.expect("parked", y.parked(), "e000:too_large e001:behind e003:behind e004:behind")
		b.expect("stored", b.stored(), "e002 e005")
		b.expect("gauge", b.exposed("outboxd_parked_events"), "4")
		_ = b.finish()
	})
}

// TestParkAcrossFailover: what was parked just before comes again in another
// epoch, with what is before it in the WAL. It is parked once, and keeps its
// place behind that.
func TestParkAcrossFailover(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.broker.Limit = limit(event(1))
		sound := b.silence()
		b.DrainTimeout = time.Second
		b.insertKeys(0, "a", "a", "a")
		b.start()
		settle(3 * time.Second)
		b.expect("parked before", y.parked(), "e001:too_large e002:behind")
		_ = b.finish()
		sound()
		b.slot.crash()
		b.slot.failOver()
		b.start()
		settle(3 * time.Second)
		b.expect("parked", y.parked(), "e001:too_large e002:behind")
		b.expect("a", b.order("a"), "e000")
		b.broker.Limit = nil
		y.mark(parked.Retry)
		settle(3 * time.Second)
		b.expect("released", b.order("a"), "e000 e001 e002")
		b.expect("position", header(b.broker.Stored()[1], "ce_sequence"), "0002.0000000000001100.00000000")
		_ = b.finish()
	})
}

// TestParkedLimit (P5): at the limit the pipeline waits, visibly, and goes on by
// itself once something was discarded.
func TestParkedLimit(t *testing.T) {
	for name, limit := range map[string]func(*relay.Parking){
		"events": func(p *relay.Parking) { p.MaxEvents = 2 },
		"bytes":  func(p *relay.Parking) { p.MaxBytes = 120 },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				b := newBench(t)
				y := b.park(relay.ParkKey)
				limit(b.Parking)
				b.broker.Script, _ = refuse(event(0))
				b.insertKeys(0, "a", "a", "a", "b")
				b.start()
				settle(time.Minute)
				b.expect("parked", y.parked(), "e000:too_large e001:behind")
				s := b.Status()
				if s.Ready || s.Phase != relay.Holding || !strings.Contains(s.Reason, "parked_limit") || !strings.Contains(s.Reason, "outboxd parked") {
					t.Errorf("status %+v", s)
				}
				if n := b.logged.count("msg=held"); n != 1 {
					t.Errorf("%d lines on the limit:\n%s", n, b.logged)
				}
				y.mark(parked.Discard, event(0))
				settle(10 * time.Second)
				b.expect("parked", y.parked(), "e001:behind e002:behind")
				b.expect("stored", b.stored(), "e003")
				b.expect("discarded", b.exposed("outboxd_parked_discarded_total"), "1")
				b.expectFlowing()
				_ = b.finish()
			})
		})
	}
}

// TestParkingNotSetUp: the table is missing.
func TestParkingNotSetUp(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		y.opened = func() error { return &cdc.Error{Code: cdc.CodeNotSetUp, Detail: "the table is missing"} }
		b.start()
		if stop := b.stopped(); stop.Fault.Code != "not_set_up" || stop.Fault.Exit != relay.ExitConfig {
			t.Errorf("%+v", stop.Fault)
		}
	})
}

// TestManyPoisonEvents of one session cost one session together, as far as the
// broker has seen them.
func TestManyPoisonEvents(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.broker.Lanes = 64
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: time.Millisecond, Err: tooLarge()}
		}
		for i := range 40 {
			b.slot.insert(event(i), event(i))
		}
		b.start()
		settle(time.Second)
		if n := strings.Count(y.parked(), "too_large"); n != 40 {
			t.Errorf("%d parked: %s", n, y.parked())
		}
		if opened, _ := b.slot.sessions(); opened > 20 {
			t.Errorf("%d sessions", opened)
		}
		_ = b.finish()
	})
}

// TestDestinationOfUnmakeable: where an event was to go is known also when no
// record can be made of it, or nobody could choose it by key and destination.
func TestDestinationOfUnmakeable(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.insertUnmakeable(0, "a")
		b.insertKeys(1, "a")
		b.start()
		settle(3 * time.Second)
		b.expect("parked", y.parked(), "e000:missing_field e001:behind")
		for _, r := range y.sorted() {
			b.expect("destination of "+string(r.ID), r.Destination, "outbox.event.order")
		}
		_ = b.finish()
	})
}
