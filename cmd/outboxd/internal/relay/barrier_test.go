package relay_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// behindHeld starts a relay that has found the poison event e001 (an aggregate
// id that is NULL) behind e000, which is held until found is set.
func behindHeld(t *testing.T, found *atomic.Bool) *bench {
	b := newBench(t)
	b.broker.Lanes = 1
	b.broker.Script = func(r *publisher.Record) publishertest.Answer {
		if r.ID == event(0) && !found.Load() {
			return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
		}
		return publishertest.Answer{}
	}
	b.slot.insert(event(0), "one")
	b.slot.insert(event(1), "NULL")
	b.start()
	settle(30 * time.Second)
	return b
}

// expectPassed checks that e002, behind the poison event that was published
// elsewhere, is no reason to stop.
func (b *bench) expectPassed() {
	b.t.Helper()
	settle(time.Minute)
	select {
	case err := <-b.result:
		b.t.Fatalf("the relay stopped: %v", err)
	default:
	}
	b.expect("stored", b.stored(), event(2))
	b.expectFlowing()
	if err := b.finish(); err != nil {
		b.t.Error(err)
	}
}

// TestPoisonPublishedByLeader: another relay led for a while and published both
// events. What comes after is not taken for the poison event.
func TestPoisonPublishedByLeader(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := behindHeld(t, &atomic.Bool{})
		b.slot.take(true)
		settle(10 * time.Second)
		b.slot.forget()
		b.slot.insert(event(2), "two")
		b.slot.take(false)
		b.expectPassed()
	})
}

// TestPoisonPublishedByOther: the same in the pause between two sessions, so
// that this relay never stood by.
func TestPoisonPublishedByOther(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := behindHeld(t, &atomic.Bool{})
		b.slot.forget()
		b.slot.insert(event(2), "two")
		b.expectPassed()
	})
}

// TestPoisonInNextEpoch: the server fails over. What is before the poison event
// is still published first, and the event is named by its new position.
func TestPoisonInNextEpoch(t *testing.T) {
	simulated(t, func(t *testing.T) {
		var found atomic.Bool
		b := behindHeld(t, &found)
		b.slot.failOver()
		found.Store(true)
		b.expectPoison(event(1), "0002.0000000000001100.00000000", "missing_key")
		b.expect("stored", b.stored(), event(0))
	})
}

// TestPoisonIsJudgedAgain after this relay stood by: meanwhile the broker's
// limit was raised.
func TestPoisonIsJudgedAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Lanes = 64 // a key a lane, nearly
		var mended atomic.Bool
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			switch {
			case mended.Load():
				return publishertest.Answer{}
			case r.ID == event(0):
				return publishertest.Answer{After: time.Second, Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
			}
			return publishertest.Answer{Err: tooLarge()}
		}
		b.slot.insert(event(0), "a")
		b.slot.insert(event(1), "b")
		b.start()
		settle(30 * time.Second)
		b.slot.take(true)
		settle(10 * time.Second)
		if s := b.Status(); s.Phase != relay.StandingBy {
			t.Errorf("status %+v", s)
		}
		mended.Store(true)
		b.slot.take(false)
		settle(10 * time.Second)
		if !b.has(event(0)) || !b.has(event(1)) {
			t.Errorf("stored %q", b.stored())
		}
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}
