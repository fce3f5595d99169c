package relay_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// TestOpenIsBounded: a broker that takes the connection and says nothing must
// not keep the slot from a standby for ever.
func TestOpenIsBounded(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.OpenPublisher = func(ctx context.Context, _ publisher.Done, _ publisher.Guard) (publisher.Publisher, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		b.start()
		settle(40 * time.Second)
		_, closed := b.slot.sessions()
		if len(closed) != 1 || closed[0].Sub(began) != 33*time.Second {
			t.Errorf("closed at %v, want 30 s for the broker and 3 s of an idle outbox after %s", closed, began)
		}
		if s := b.Status(); s.Reason != "broker_unreachable: open broker: context deadline exceeded" {
			t.Errorf("reason %q, want the code and the error", s.Reason)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// unreachable takes nothing.
type unreachable struct{}

func (unreachable) Publish(context.Context, *publisher.Record) error {
	return errors.New("cannot reach the broker")
}
func (unreachable) Close(context.Context) error { return nil }

// TestWaitingIsSeen: an event that no broker takes is counted from its commit,
// also when the broker cannot be opened or fails before it has taken anything.
func TestWaitingIsSeen(t *testing.T) {
	for name, open := range map[string]func() (publisher.Publisher, error){
		"not opened": func() (publisher.Publisher, error) { return nil, errors.New("cannot reach the broker") },
		"not taken":  func() (publisher.Publisher, error) { return unreachable{}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				b := newBench(t)
				real, away := b.OpenPublisher, atomic.Bool{}
				away.Store(true)
				b.OpenPublisher = func(ctx context.Context, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
					if away.Load() {
						return open()
					}
					return real(ctx, done, guard)
				}
				b.start()
				settle(10 * time.Second)
				b.expect("age of nothing", b.exposed("outboxd_oldest_unpublished_age_seconds"), "0")
				b.slot.insert(event(0), "one")
				settle(time.Minute)
				b.expect("age", b.exposed("outboxd_oldest_unpublished_age_seconds"), "60")
				if s := b.Status(); s.Ready || s.Phase != relay.Retrying {
					t.Errorf("status %+v", s)
				}
				away.Store(false)
				settle(10 * time.Second)
				b.expect("acked", b.slot.ackedIDs(), "e000")
				b.expect("age", b.exposed("outboxd_oldest_unpublished_age_seconds"), "0")
				if s := b.Status(); !s.Ready {
					t.Errorf("status %+v", s)
				}
				if err := b.finish(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestOutagesAreTold: one line when an outage begins, one when it ends, with
// its own attempts; another target is another outage.
func TestOutagesAreTold(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Lanes = 1
		var missing atomic.Value
		missing.Store("")
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if target := missing.Load().(string); target != "" {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: target}}
			}
			return publishertest.Answer{}
		}
		b.start()
		missing.Store("first")
		b.slot.insert(event(0), "one")
		settle(30 * time.Second)
		missing.Store("second")
		settle(10 * time.Second)
		if n := b.logged.count("target=first"); n != 1 || b.logged.count("target=second") != 1 {
			t.Errorf("want a line for each target:\n%s", b.logged)
		}
		missing.Store("")
		settle(10 * time.Second)

		// The event that was held is published: a lost database is over when the
		// session is up again, with nothing to publish.
		b.slot.broken <- &cdc.Error{Code: cdc.CodeUnreachable, Detail: "lost"}
		settle(5 * time.Second)
		if s := b.Status(); s.Phase != relay.Streaming || !s.Ready {
			t.Errorf("status %+v", s)
		}
		if b.logged.count("cleared=database_unreachable") != 1 || b.logged.count("attempts=1\n") != 1 {
			t.Errorf("want the end of the second outage, after one attempt:\n%s", b.logged)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestLeaderBecomesStandby: it holds an event, loses the slot, and another relay
// publishes the event. Afterwards nothing is held here.
func TestLeaderBecomesStandby(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = missing(&atomic.Bool{})
		b.slot.insert(event(0), "one")
		b.start()
		settle(10 * time.Second)
		b.slot.take(true)
		settle(10 * time.Second)
		if s := b.Status(); s.Phase != relay.StandingBy || !s.Ready {
			t.Errorf("status %+v", s)
		}
		b.expect("leader", b.exposed("outboxd_leader"), "0")
		b.expect("age", b.exposed("outboxd_oldest_unpublished_age_seconds"), "0")
		b.slot.forget() // the other relay published it and confirmed
		b.slot.take(false)
		settle(10 * time.Second)
		if s := b.Status(); s.Phase != relay.Streaming || !s.Ready {
			t.Errorf("status %+v", s)
		}
		b.expect("leader", b.exposed("outboxd_leader"), "1")
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestAckWhileDraining: the event that was held is acked at last, and the relay
// is on its way out all the same.
func TestAckWhileDraining(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		var attempts atomic.Int32
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if attempts.Add(1) == 1 {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
			}
			return publishertest.Answer{After: time.Second}
		}
		b.broker.Lanes = 1
		b.slot.insert(event(0), "one")
		b.slot.insert(event(1), "one")
		b.start()
		settle(500 * time.Millisecond)
		b.stop()
		settle(1500 * time.Millisecond)
		b.expect("acked", b.slot.ackedIDs(), event(0))
		if s := b.Status(); s.Phase != relay.Stopping || s.Ready {
			t.Errorf("status %+v", s)
		}
		if err := <-b.result; err != nil {
			t.Error(err)
		}
	})
}

// TestStandbyHasProvenTheLogin: a password that is changed while it waits is no
// reason to stop waiting.
func TestStandbyHasProvenTheLogin(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.slot.open = func(attempt int) error {
			switch attempt {
			case 1:
				return &cdc.Error{Code: cdc.CodeSlotActive}
			case 2:
				return &cdc.Error{Code: cdc.CodeAuth}
			}
			return nil
		}
		b.slot.insert(event(0), "one")
		b.start()
		settle(time.Minute)
		b.expect("stored", b.stored(), event(0))
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// missing answers that the topic is missing, until found is set.
func missing(found *atomic.Bool) func(*publisher.Record) publishertest.Answer {
	return func(r *publisher.Record) publishertest.Answer {
		if !found.Load() {
			return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
		}
		return publishertest.Answer{}
	}
}

// expectFlowing checks that nothing is said to wait.
func (b *bench) expectFlowing() {
	b.t.Helper()
	if s := b.Status(); s.Phase != relay.Streaming || !s.Ready {
		b.t.Errorf("everything is published; status %+v", s)
	}
	b.expect("age", b.exposed("outboxd_oldest_unpublished_age_seconds"), "0")
}

// TestHeldIntoNextEpoch: the server fails over while an event is held. It comes
// again under another position, whose ack must end the wait.
func TestHeldIntoNextEpoch(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		var found atomic.Bool
		b.broker.Script = missing(&found)
		b.slot.insert(event(0), "one")
		b.start()
		settle(30 * time.Second)
		b.slot.failOver()
		settle(30 * time.Second)
		if s := b.Status(); s.Phase != relay.Holding || s.Ready {
			t.Errorf("held in the new epoch, too; status %+v", s)
		}
		b.slot.failOver()
		found.Store(true)
		settle(time.Minute)
		b.slot.insert(event(1), "one")
		settle(time.Second)
		b.expect("stored", b.stored(), event(0)+" "+event(1))
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestHeldNoMoreInNextEpoch: the new primary never had the event's transaction.
// No ack will come, and none is waited for.
func TestHeldNoMoreInNextEpoch(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = missing(&atomic.Bool{})
		b.slot.insert(event(0), "one")
		b.start()
		settle(30 * time.Second)
		b.slot.lose()
		b.slot.failOver()
		settle(10 * time.Second)
		b.expect("stored", b.stored(), "")
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestHeldPublishedByOther: another relay published the event in the pause
// between two sessions of this one, and is gone again. No further event comes.
func TestHeldPublishedByOther(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = missing(&atomic.Bool{})
		b.slot.insert(event(0), "one")
		b.start()
		settle(30 * time.Second)
		b.slot.forget()
		settle(10 * time.Second)
		b.expect("stored", b.stored(), "")
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestHeldInPublishedPart: the event is in a transaction of which another relay
// published a part. Only the end of the transaction says that it is past.
func TestHeldInPublishedPart(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		var found atomic.Bool
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			answer := missing(&found)(r)
			if r.ID == id2 {
				answer.After = 10 * time.Second
			}
			return answer
		}
		b.slot.commit(emit(`{"events":[
			{"id":"`+id1+`","aggregatetype":"order","aggregateid":"7","type":"placed","payload":{}},
			{"id":"`+id2+`","aggregatetype":"order","aggregateid":"7","type":"paid","payload":{}}]}`, id1, id2))
		b.start()
		settle(30 * time.Second)
		b.slot.forgetFirst()
		found.Store(true)
		settle(8 * time.Second)
		if s := b.Status(); s.Phase != relay.Holding {
			t.Errorf("the rest of the transaction is under way; status %+v", s)
		}
		settle(10 * time.Second)
		b.expect("stored", b.stored(), id2)
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestHeldBesideOthers: acks of later events, which go elsewhere, do not say
// that the held one is on its way.
func TestHeldBesideOthers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Lanes = 64 // a key a lane, nearly
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(0) {
				return publishertest.Answer{After: time.Second, Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
			}
			return publishertest.Answer{}
		}
		b.slot.insert(event(0), "a")
		b.start()
		for i := range 20 {
			settle(3 * time.Second)
			b.slot.insert(event(i+1), "b")
			settle(time.Second)
			if s := b.Status(); s.Phase != relay.Holding || s.Ready {
				t.Fatalf("after %s: status %+v", event(i+1), s)
			}
		}
		if n := b.logged.count("msg=streaming"); n != 1 || !b.has(event(15)) {
			t.Errorf("called itself streaming %d times, stored %s", n, b.stored())
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestPublishedByOtherWithoutSession: what was held is past, and the database is
// away: that is not streaming.
func TestPublishedByOtherWithoutSession(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		var away atomic.Bool
		b.broker.Script = missing(&atomic.Bool{})
		b.slot.open = func(int) error {
			if away.Load() {
				return &cdc.Error{Code: cdc.CodeUnreachable, Detail: "away"}
			}
			return nil
		}
		b.slot.insert(event(0), "one")
		b.start()
		settle(30 * time.Second)
		away.Store(true)
		b.slot.forget()
		for range 60 {
			settle(500 * time.Millisecond)
			if s := b.Status(); s.Phase == relay.Streaming || s.Ready {
				t.Fatalf("status %+v", s)
			}
		}
		away.Store(false)
		settle(10 * time.Second)
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestBrokerAwayIsTold once, though each attempt takes the slot and lets go of
// it.
func TestBrokerAwayIsTold(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.OpenPublisher = func(context.Context, publisher.Done, publisher.Guard) (publisher.Publisher, error) {
			return nil, errors.New("connection refused")
		}
		b.start()
		settle(10 * time.Minute)
		if opened, _ := b.slot.sessions(); opened < 70 {
			t.Errorf("%d attempts", opened)
		}
		b.expect("log lines", strconv.Itoa(b.logged.count("\n")), "1")
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}
