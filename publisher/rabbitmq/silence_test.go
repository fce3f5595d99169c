package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// TestSlowDone: the library drops returns and confirms that nobody takes for
// 5 seconds. A user that needs a minute for an outcome must not lose one.
func TestSlowDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, config := newScript(t, func(s *script, p published) {
			s.giveBack(p)
			s.ack(p, false)
		})
		config.Channels = 1
		config.Window = 50
		config.Unroutable = rabbitmq.Discard
		got := newOutcomes(t)
		p := scripted(t, config, func(r *publisher.Record, err error) {
			if r.Token%20 == 0 {
				time.Sleep(time.Minute) // of the bubble: none passes
			}
			got.done(r, err)
		})
		for i := range uint64(200) {
			mustPublish(t, p, record(i, fmt.Sprint(i)))
		}
		got.wait(200)
		if err := shut(t, p, time.Hour); err != nil {
			t.Error(err)
		}
		if s := p.Stats(); s.Returned != 200 || s.Discarded != 200 || s.Published != 0 {
			t.Errorf("200 records were returned, stats %+v", s)
		}
	})
}

// TestBounds: a broker that confirms nothing is given no more than the window,
// and a Publish that waits ends with its context.
func TestBounds(t *testing.T) {
	for _, c := range []struct {
		name          string
		window, bytes int
		size, want    int
	}{
		{"records", 10, 1 << 20, 1, 10},
		{"bytes", 1000, 10_000, 900, 11},
		{"one record of any size", 1000, 10, 900, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, config := newScript(t, func(*script, published) {})
			config.Channels = 1
			config.Window, config.WindowBytes = c.window, c.bytes
			got := newOutcomes(t)
			p := scripted(t, config, got.done)
			taken := 0
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var err error
			for ; err == nil; taken++ {
				r := record(uint64(taken), fmt.Sprint(taken))
				r.Topic, r.Key, r.Value = "", []byte{}, make([]byte, c.size)
				err = p.Publish(ctx, r)
			}
			if taken--; taken != c.want || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: took %d records, then %v, want %d", c.name, taken, err, c.want)
			}
			if s := p.Stats(); s.InFlight+s.Waiting != taken || s.Bytes != taken*c.size || s.HotKeyWaits == 0 && taken > 1 {
				t.Errorf("%s: stats %+v", c.name, s)
			}
			_ = shut(t, p, 0)
			if n := got.count(); n["unknown"] != 1 || n["closed"] != taken-1 {
				t.Errorf("%s: outcomes after close %v, want one record of the key sent", c.name, n)
			}
		})
	}
}

// TestAlarm: a blocked connection is seen, is no failure however long it
// lasts, bounds what is taken, and does not hold up Close.
func TestAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := make(chan struct{}, 1000) // a token for each message that the broker reads
		s, config := newScript(t, func(s *script, p published) {
			<-reads
			s.ack(p, false)
		})
		config.Channels = 1
		config.Window = 20
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		reads <- struct{}{}
		mustPublish(t, p, record(0, "a"))
		got.wait(1)

		s.block("low on memory")
		synctest.Wait()
		if st := p.Stats(); st.BlockedSince.IsZero() || st.BlockedReason != "low on memory" {
			t.Errorf("stats %+v", st)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		taken := uint64(1)
		for p.Publish(ctx, record(taken, fmt.Sprint(taken))) == nil {
			taken++
		}
		if st := p.Stats(); taken != 21 || got.len() != 1 || st.InFlight != 0 {
			t.Errorf("took %d records in the alarm, stats %+v, %d outcomes; want 20, all waiting, and none", taken-1, st, got.len()-1)
		}
		s.unblock()
		for range taken {
			reads <- struct{}{}
		}
		got.wait(int(taken))
		if n := got.count(); n[""] != int(taken) {
			t.Errorf("outcomes after the alarm %v", n)
		}
		if st := p.Stats(); !st.BlockedSince.IsZero() {
			t.Errorf("stats after the alarm %+v", st)
		}

		s.block("again")
		synctest.Wait()
		mustPublish(t, p, record(100, "a"))
		start := time.Now()
		if err := shut(t, p, time.Second); !errors.Is(err, publisher.ErrClosed) {
			t.Errorf("close in an alarm: %v", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("close took %v", took)
		}
		if c, st := got.of(100), p.Stats(); c != "closed" || !st.BlockedSince.IsZero() {
			t.Errorf("a record that was never sent: %q, stats %+v", c, st)
		}
		close(reads)
	})
}

// TestSilentBroker: one that neither reads nor answers is given up after three
// half heartbeats.
func TestSilentBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		defer close(stuck)
		_, config := newScript(t, func(s *script, _ published) {
			s.mute.Store(true)
			<-stuck
		})
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		start := time.Now()
		mustPublish(t, p, record(0, "a"))
		got.wait(1)
		if took := time.Since(start); got.of(0) != "unknown" || took > 20*time.Second {
			t.Errorf("outcome %v after %v", got.err(0), took)
		}
	})
}

// TestNoConfirm: a broker that lives and reads, and forgets what it was sent.
// In an alarm that is no failure.
func TestNoConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, config := newScript(t, func(*script, published) {})
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		start := time.Now()
		mustPublish(t, p, record(0, "a"), record(1, "a"))
		synctest.Wait()
		s.block("low on memory")
		time.Sleep(time.Hour)
		if got.len() > 0 {
			t.Errorf("an alarm is taken for a failure: %v", got.count())
		}
		s.unblock()
		got.wait(2)
		if took := time.Since(start) - time.Hour; took > rabbitmq.DefaultConfirmTimeout || got.of(0) != "unknown" || got.of(1) != "aborted" {
			t.Errorf("outcomes %v after %v", got.count(), took)
		}
		if err := got.err(0); !strings.Contains(err.Error(), "confirmed nothing for 1m0s") {
			t.Errorf("the cause is lost: %v", err)
		}
	})
}

// slowLine is a connection that takes 10 s for each write.
type slowLine struct{ net.Conn }

func (c slowLine) Write(p []byte) (int, error) {
	if len(p) > 1<<10 {
		time.Sleep(10 * time.Second)
	}
	return c.Conn.Write(p)
}

// TestLargeRecordOnSlowLine: nobody confirms what has not arrived yet.
func TestLargeRecordOnSlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, config := newScript(t, func(s *script, p published) { s.ack(p, false) })
		dial := config.Dial
		config.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return slowLine{conn}, err
		}
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		large := record(0, "a")
		large.Value = make([]byte, 4<<20)
		began := time.Now()
		mustPublish(t, p, large)
		got.wait(1)
		if took := time.Since(began); got.of(0) != "" || took < 2*rabbitmq.DefaultConfirmTimeout {
			t.Errorf("outcome after %s: %v", took, got.err(0))
		}
		if err := shut(t, p, time.Hour); err != nil {
			t.Error(err)
		}
	})
}

// slowClose is a connection whose Close returns well after it has closed.
type slowClose struct{ net.Conn }

func (c slowClose) Close() error {
	err := c.Conn.Close()
	<-time.After(100 * time.Millisecond)
	return err
}

// TestCauseIsKept: whoever ends the connection, the outcome says why, and not
// that the connection was found closed.
func TestCauseIsKept(t *testing.T) {
	errLease := errors.New("lease ran out")
	for _, c := range []struct {
		name  string
		guard bool
		want  string
	}{
		{"guard", true, "lease ran out"},
		{"no confirm while a write is stuck", false, "confirmed nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stuck := make(chan struct{})
			defer close(stuck)
			arrived := make(chan struct{}, 1)
			_, config := newScript(t, func(*script, published) {
				arrived <- struct{}{}
				<-stuck
			})
			dial := config.Dial
			config.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				return slowClose{conn}, err
			}
			config.Channels = 1
			config.WriteTimeout, config.ConfirmTimeout = time.Hour, time.Second
			got := newOutcomes(t)
			var refuse atomic.Bool
			p, err := rabbitmq.Open(context.Background(), config, got.done, func() error {
				if refuse.Load() {
					return errLease
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			refuse.Store(c.guard)
			mustPublish(t, p, record(0, "a"))
			if !c.guard {
				<-arrived
				mustPublish(t, p, record(1, "b")) // its write is stuck
			}
			got.wait(1)
			if err := got.err(0); classOf(err) != "unknown" || !strings.Contains(err.Error(), c.want) || errors.Is(err, errLease) != c.guard {
				t.Errorf("outcome: %v", err)
			}
			_ = shut(t, p, time.Second)
		})
	}
}

// TestFailureWakesEveryone: a Publish that waits for room, and a lane that is
// kept back by an alarm, learn that another record has failed.
func TestFailureWakesEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first published
		s, config := newScript(t, func(_ *script, p published) { first = p })
		config.Channels = 1
		config.Window = 2
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		mustPublish(t, p, record(0, "a"))
		synctest.Wait()
		s.block("low on memory")
		synctest.Wait()
		mustPublish(t, p, record(1, "b"))
		blocked := make(chan error)
		go func() { blocked <- p.Publish(context.Background(), record(2, "c")) }()
		synctest.Wait()
		s.nack(first)
		if err := <-blocked; classOf(err) != "refused" {
			t.Errorf("the publish that waited: %v", err)
		}
		start := time.Now()
		if err := shut(t, p, time.Hour); err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("close: %v after %v", err, time.Since(start))
		}
		if got.of(0) != "refused" || got.of(1) != "aborted" || got.of(2) != "none" {
			t.Errorf("outcomes %v", got.count())
		}
	})
}

// TestOpenEndsWithItsContext: a broker that accepts and says nothing.
func TestOpenEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, config := newScript(t, nil)
		s.mute.Store(true)
		start := time.Now()
		_, err := rabbitmq.Open(t.Context(), config, nil, nil)
		if took := time.Since(start); err == nil || took != rabbitmq.DefaultConnectTimeout {
			t.Errorf("open: %v after %v", err, took)
		}
		<-s.closed
		s, config = newScript(t, nil)
		s.mute.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := rabbitmq.Open(ctx, config, nil, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("open: %v after %v", err, time.Since(start))
		}
	})
}
