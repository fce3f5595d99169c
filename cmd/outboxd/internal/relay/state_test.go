package relay_test

import (
	"context"
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
		if len(closed) != 1 || closed[0].Sub(began) != 30*time.Second {
			t.Errorf("closed at %v, want 30 s after %s", closed, began)
		}
		if s := b.Status(); s.Reason != "broker_unreachable: open broker: context deadline exceeded" {
			t.Errorf("reason %q, want the code and the error", s.Reason)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
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
		var taken, held atomic.Bool
		held.Store(true)
		b.slot.open = func(int) error {
			if taken.Load() {
				return &cdc.Error{Code: cdc.CodeSlotActive, Detail: "held by another"}
			}
			return nil
		}
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if held.Load() {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
			}
			return publishertest.Answer{}
		}
		b.slot.insert(event(0), "one")
		b.start()
		settle(10 * time.Second)
		taken.Store(true)
		settle(10 * time.Second)
		if s := b.Status(); s.Phase != relay.StandingBy || !s.Ready {
			t.Errorf("status %+v", s)
		}
		b.expect("leader", b.exposed("outboxd_leader"), "0")
		b.expect("age", b.exposed("outboxd_oldest_unpublished_age_seconds"), "0")
		b.slot.forget() // the other relay published it and confirmed
		taken.Store(false)
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
