package relay_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// parkedKey starts a relay that has parked e000, which the broker refuses until
// accept is called, and e001 and e003 behind it.
func parkedKey(t *testing.T) (b *bench, y *yard, accept func()) {
	b = newBench(t)
	y = b.park(relay.ParkKey)
	b.broker.Script, accept = refuse(event(0))
	b.insertKeys(0, "a", "a", "b", "a")
	b.start()
	settle(3 * time.Second)
	b.expect("parked", y.parked(), "e000:too_large e001:behind e003:behind")
	return b, y, accept
}

// TestRelease (P6): what is released is published in order, with its id, its
// position and a header, its row goes, and the key is handed back.
func TestRelease(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, accept := parkedKey(t)
		accept()
		y.mark(parked.Retry)
		settle(3 * time.Second)
		b.insertKeys(4, "a")
		settle(time.Second)
		b.expect("parked", y.parked(), "")
		b.expect("a", b.order("a"), "e000 e001 e003 e004")
		for _, r := range b.broker.Stored() {
			retried := "true"
			if r.ID == event(4) || r.ID == event(2) {
				retried = ""
			}
			b.expect("retried "+r.ID, header(r, "outboxd-retried"), retried)
		}
		b.expect("position", header(b.broker.Stored()[1], "ce_sequence"), "0001.0000000000001000.00000000")
		b.expect("released", b.exposed("outboxd_parked_released_total"), "3")
		b.expect("gauges", b.exposed("outboxd_parked_events")+b.exposed("outboxd_parked_bytes")+b.exposed("outboxd_parked_keys"), "000")
		b.expect("acks", fmt.Sprint(strings.Count(b.slot.ackedIDs(), "e")), "5")
		b.expectFlowing()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestReleaseUnderLoad: nothing live of the key slips in between while its
// events are released, batch by batch; though writing takes a while, and the
// witness is never past the last second of it.
func TestReleaseUnderLoad(t *testing.T) {
	for range 8 { // of four runs, one does not notice what lets them in
		simulated(t, releaseUnderLoad)
	}
}

func releaseUnderLoad(t *testing.T) {
	b := newBench(t)
	y := b.park(relay.ParkKey)
	y.batch, y.lag = 3, time.Second
	y.write = func() error {
		time.Sleep(time.Duration(rand.N(30)) * time.Millisecond)
		return nil
	}
	var accept func()
	script, accept := refuse(event(0))
	b.broker.Script = func(r *publisher.Record) publishertest.Answer {
		a := script(r)
		a.After = time.Duration(rand.N(10)) * time.Millisecond
		return a
	}
	n := 0
	load := func(d time.Duration) {
		for range int(d / (20 * time.Millisecond)) {
			b.insertKeys(n, "a", "b")
			n += 2
			settle(20 * time.Millisecond)
		}
	}
	b.start()
	load(2 * time.Second)
	accept()
	y.mark(parked.Retry, event(0)) // what is behind it follows
	for y.parked() != "" {
		load(100 * time.Millisecond)
		if n > 4000 {
			t.Fatalf("the key is not handed back; parked %s", y.parked())
		}
	}
	load(time.Second)
	settle(time.Second)
	for _, key := range []string{"a", "b"} {
		var want []string
		for i := range n {
			if (i%2 == 0) == (key == "a") {
				want = append(want, event(i))
			}
		}
		b.expect(key, b.order(key), strings.Join(want, " "))
	}
	if err := b.finish(); err != nil {
		t.Error(err)
	}
}

// TestReleaseOfPoison: it is still too large. It goes back, what is behind it
// waits, the others are released.
func TestReleaseOfPoison(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, _ := parkedKey(t)
		b.slot.insert(event(4), "NULL")
		settle(3 * time.Second)
		b.Format = unkeyed(t)
		y.mark(parked.Retry)
		settle(5 * time.Second)
		b.running()
		b.expect("parked", y.parked(), "e000:too_large e001:behind e003:behind")
		if !b.has(event(4)) {
			t.Error("e004 has nothing to do with it and was not released")
		}
		if y.rows["0001.0000000000001000.00000000"].attempts != 1 {
			t.Error("the attempt was not counted")
		}
		b.expectFlowing()
		b.expect("a", b.order("a"), "")
		_ = b.finish()
	})
}

// TestReleaseOfPoisonUnderStop: the relay stops in front of what comes, not
// because of what it releases.
func TestReleaseOfPoisonUnderStop(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, _ := parkedKey(t)
		_ = b.finish()
		b.Parking.Policy = relay.Stop
		b.start()
		settle(3 * time.Second)
		y.mark(parked.Retry, event(0))
		settle(10 * time.Second)
		b.running()
		b.expect("parked", y.parked(), "e000:too_large e001:behind e003:behind")
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestReleaseOfUnmakeable: no record can be made of it this time either. The
// session that was begun for it goes on, and what is behind it waits.
func TestReleaseOfUnmakeable(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.insertUnmakeable(0, "a")
		b.insertKeys(1, "a", "b")
		b.retryInVain(y, "missing_field")
	})
}

// TestReleaseOfKnownPoison: the publisher knows that it cannot take it this time
// either. The session that was begun for it goes on.
func TestReleaseOfKnownPoison(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		b.broker.Limit = limit(event(0))
		b.insertKeys(0, "a", "a", "b")
		b.retryInVain(y, "too_large")
	})
}

// retryInVain has e000 parked with e001 behind it, and retried: both stay, and the
// session that was begun for that.
func (b *bench) retryInVain(y *yard, reason string) {
	b.t.Helper()
	b.start()
	settle(3 * time.Second)
	y.mark(parked.Retry)
	settle(3 * time.Second)
	b.expect("parked", y.parked(), "e000:"+reason+" e001:behind")
	b.expect("stored", b.stored(), "e002")
	if opened, _ := b.slot.sessions(); opened != 2 {
		b.t.Errorf("%d sessions", opened)
	}
	_ = b.finish()
}

// TestReleaseOfHeld: the world is in the way of what is released. That is said,
// what is live goes on, and it is published when the world is mended.
func TestReleaseOfHeld(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, accept := parkedKey(t)
		accept()
		var mended atomic.Bool
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(0) && !mended.Load() {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: "gone"}}
			}
			return publishertest.Answer{}
		}
		y.mark(parked.Retry)
		settle(10 * time.Second)
		for i := range 20 {
			b.insertKeys(10+i, "b")
			settle(7 * time.Second)
			if !b.has(event(10 + i)) {
				t.Errorf("%s waits for a parked event", event(10+i))
			}
			if s := b.Status(); s.Phase != relay.Holding || s.Target != "gone" {
				t.Errorf("status %+v", s)
			}
		}
		if n := b.logged.count("msg=held"); n != 1 {
			t.Errorf("%d lines:\n%s", n, b.logged)
		}
		if opened, _ := b.slot.sessions(); opened > 10 { // in 150 s
			t.Errorf("%d sessions", opened)
		}
		mended.Store(true)
		settle(time.Minute)
		b.expect("parked", y.parked(), "")
		b.expect("a", b.order("a"), "e000 e001 e003")
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestReleaseOfOthers: what is held does not take the places of what goes
// elsewhere, and is published when the world is mended.
func TestReleaseOfOthers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		y.batch = 2
		var mended atomic.Bool
		b.broker.Script, b.broker.Limit = func(r *publisher.Record) publishertest.Answer {
			if strings.HasSuffix(r.Topic, "order") && !mended.Load() {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic}}
			}
			return publishertest.Answer{}
		}, limit(event(0), event(1), event(2), event(3))
		b.insertKeys(0, "a", "b", "c")
		b.slot.commit(message{ids: []string{event(3)}, Message: cdc.Message{
			Kind: cdc.Insert, Relation: outboxTable, Row: row(event(3), "invoice", "d", "placed", "{}"),
		}})
		b.start()
		settle(10 * time.Second)
		b.broker.Limit = nil
		y.mark(parked.Retry)
		settle(2 * time.Minute)
		b.expect("stored", b.stored(), "e003")
		mended.Store(true)
		settle(2 * time.Minute)
		b.expect("parked", y.parked(), "")
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestReleaseIsTakenBack: nobody wants the held event to be released any more.
func TestReleaseIsTakenBack(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, _ := parkedKey(t)
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(0) {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: "gone"}}
			}
			return publishertest.Answer{}
		}
		y.mark(parked.Retry)
		settle(10 * time.Second)
		if s := b.Status(); s.Phase != relay.Holding {
			t.Errorf("status %+v", s)
		}
		y.mark(parked.Discard)
		settle(10 * time.Second)
		b.expect("parked", y.parked(), "")
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestReleaseIsTakenBackMeanwhile: nobody wants it any more when the next
// session begins, and nothing else is parked.
func TestReleaseIsTakenBackMeanwhile(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, _ := parkedKey(t)
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(0) {
				y.mark(parked.Discard)
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: "gone"}}
			}
			return publishertest.Answer{}
		}
		y.mark(parked.Retry)
		settle(10 * time.Second)
		b.expect("parked", y.parked(), "")
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestReleaseIsDrained: a stop in the middle of a release settles what the
// broker took.
func TestReleaseIsDrained(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, accept := parkedKey(t)
		accept()
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: 5 * time.Second}
		}
		y.mark(parked.Retry, event(0))
		settle(3 * time.Second)
		b.insertKeys(4, "b")
		settle(time.Second)
		if err := b.finish(); err != nil {
			t.Error(err)
		}
		b.expect("parked", y.parked(), "e001:behind e003:behind")
		b.expect("stored", b.stored(), "e002 e000")
		b.expect("in flight", b.exposed("outboxd_inflight_events"), "0")
	})
}

// TestReleaseWaitsForRoom: a stop does not wait for what is not sent any more.
func TestReleaseWaitsForRoom(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, accept := parkedKey(t)
		_ = b.finish()
		accept()
		b.MaxInFlightBytes = 1
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: 5 * time.Second}
		}
		y.mark(parked.Retry)
		b.start()
		settle(time.Second)
		began := time.Now()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("the stop took %s", d)
		}
		b.expect("parked", y.parked(), "e001:behind e003:behind")
	})
}

// TestReleaseGetsLost: the broker goes in the middle of a release. Nothing is
// taken out that was not acked, and what was is published once.
func TestReleaseGetsLost(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b, y, accept := parkedKey(t)
		accept()
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(1) {
				return publishertest.Answer{After: 2 * time.Second}
			}
			return publishertest.Answer{}
		}
		y.mark(parked.Retry)
		settle(time.Second)
		b.broker.Cut()
		settle(time.Minute)
		b.expect("parked", y.parked(), "")
		b.expect("a", b.order("a"), "e000 e001 e003")
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestReleaseNeedsNewPublisher: the broker's limit was raised, which a publisher
// sees when it is opened.
func TestReleaseNeedsNewPublisher(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		var raised atomic.Bool
		limited := true // what the open publisher knows
		b.broker.Limit = func(r *publisher.Record) error {
			if r.ID == event(0) && limited {
				return tooLarge()
			}
			return nil
		}
		open := b.OpenPublisher
		b.OpenPublisher = func(ctx context.Context, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			limited = !raised.Load()
			return open(ctx, done, guard)
		}
		b.start()
		settle(10 * time.Second)
		b.insertKeys(0, "a", "a")
		settle(100 * time.Millisecond)
		raised.Store(true)
		y.mark(parked.Retry, event(0))
		settle(3 * time.Second)
		b.expect("a", b.order("a"), "e000 e001")
		b.expect("parked", y.parked(), "")
		if n := b.exposed(`outboxd_sessions_total{reason="release"}`); n != "1" {
			t.Errorf("%s sessions ended for the release", n)
		}
		b.expectFlowing()
		_ = b.finish()
	})
}

// TestReleaseDuringRelease: another limit was raised while a busy key is handed
// back. The publisher does not know it, so that a new session begins for it too.
func TestReleaseDuringRelease(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		y := b.park(relay.ParkKey)
		y.batch = 2
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: 10 * time.Millisecond}
		}
		var raised, known atomic.Int32 // events that the broker takes, and that the open publisher knows it takes
		b.broker.Limit = func(r *publisher.Record) error {
			if r.ID == event(0) && known.Load() < 1 || r.ID == event(1) && known.Load() < 2 {
				return tooLarge()
			}
			return nil
		}
		open := b.OpenPublisher
		b.OpenPublisher = func(ctx context.Context, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			known.Store(raised.Load())
			return open(ctx, done, guard)
		}
		b.insertKeys(0, "a", "b")
		for i := range 200 {
			b.insertKeys(2+i, "a")
		}
		b.start()
		settle(3 * time.Second)
		raised.Store(1)
		y.mark(parked.Retry, event(0))
		for began := time.Now(); !b.has(event(20)); settle(10 * time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatalf("the key is not handed back; parked %s", y.parked())
			}
		}
		raised.Store(2)
		y.mark(parked.Retry, event(1))
		settle(10 * time.Second)
		b.expect("parked", y.parked(), "")
		b.expectFlowing()
		_ = b.finish()
	})
}
