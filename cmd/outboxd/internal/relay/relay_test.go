package relay_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

func TestPublishesInOrder(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: time.Millisecond}
		}
		var want []string
		for i := range 200 {
			want = append(want, event(i))
			b.slot.insert(event(i), "one")
		}
		b.start()
		settle(time.Second)
		b.expect("stored", b.stored(), strings.Join(want, " "))
		b.expect("acked", b.slot.ackedIDs(), strings.Join(want, " "))
		if s := b.Status(); s.Phase != relay.Streaming || !s.Ready {
			t.Errorf("status %+v", s)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
		b.expect("published_total", b.exposed(`outboxd_events_published_total{destination="outbox.event.order"}`), "200")
		b.expect("received_total", b.exposed("outboxd_events_received_total"), "200")
		b.expect("latencies", b.exposed("outboxd_commit_to_ack_seconds_count"), "200")
		b.expect("sessions", b.exposed(`outboxd_sessions_total{reason="stop"}`), "1")
		b.expect("inflight_events", b.exposed("outboxd_inflight_events"), "0")
		b.expect("inflight_bytes", b.exposed("outboxd_inflight_bytes"), "0")
	})
}

// TestAckWaitsForBroker: invariant 3. Also the pages' bound: what the broker
// does not ack is not taken without end.
func TestAckWaitsForBroker(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Window = 10_000
		b.MaxInFlight = 128
		resume := b.broker.Stall()
		for i := range 1000 {
			b.slot.insert(event(i), fmt.Sprint(i))
		}
		b.start()
		settle(time.Second)
		b.expect("acked", b.slot.ackedIDs(), "")
		b.expect("in flight", b.exposed("outboxd_inflight_events"), "128")
		resume()
		settle(time.Second)
		if n := len(strings.Fields(b.slot.ackedIDs())); n != 1000 {
			t.Errorf("%d events acked, want 1000", n)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestRepublishesFromFailed: what failed, and what was given up behind it, is
// published by the next session; what was acked is not published again.
func TestRepublishesFromFailed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Lanes = 1
		fails := 3
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(5) && fails > 0 {
				fails--
				return publishertest.Answer{Err: fmt.Errorf("connection reset: %w", publisher.ErrUnknown)}
			}
			return publishertest.Answer{}
		}
		var want []string
		for i := range 12 {
			want = append(want, event(i))
			b.slot.insert(event(i), "one")
		}
		b.start()
		settle(10 * time.Second)
		b.expect("stored", b.stored(), strings.Join(want, " "))
		b.expect("acked", b.slot.ackedIDs(), strings.Join(want, " "))
		if n := b.logged.count("msg=retrying"); n != 1 {
			t.Errorf("%d lines for one outage:\n%s", n, b.logged)
		}
		if n := b.logged.count("msg=streaming"); n != 2 || b.logged.count("attempts=3") != 1 {
			t.Errorf("want one line at the start, one when it cleared, with the attempts:\n%s", b.logged)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestHeld: a missing topic is waited for, visibly, and logged once.
func TestHeld(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Lanes = 1
		var created atomic.Bool
		b.broker.Script = func(r *publisher.Record) publishertest.Answer {
			if r.ID == event(1) && !created.Load() {
				return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: r.Topic, Fix: "create it"}}
			}
			return publishertest.Answer{}
		}
		for i := range 3 {
			b.slot.insert(event(i), "one")
		}
		b.start()
		settle(time.Minute)
		b.expect("acked", b.slot.ackedIDs(), event(0))
		s := b.Status()
		if s.Ready || s.Phase != relay.Holding || s.Target != "outbox.event.order" || !strings.Contains(s.Reason, "missing_topic") {
			t.Errorf("status %+v", s)
		}
		const series = `outboxd_events_held{reason="missing_topic",target="outbox.event.order"}`
		b.expect("held", b.exposed(series), "1")
		b.expect("leader", b.exposed("outboxd_leader"), "1")
		b.expect("age", b.exposed("outboxd_oldest_unpublished_age_seconds"), "60")
		if n := b.logged.count("msg=held"); n != 1 || b.logged.count("create it") != 1 {
			t.Errorf("%d lines while nothing changed, want 1:\n%s", n, b.logged)
		}
		if n, _ := b.slot.sessions(); n < 60/5 || n > 30 {
			t.Errorf("%d attempts in a minute, want one in 5 s or a little less", n)
		}
		created.Store(true)
		settle(6 * time.Second)
		b.expect("acked", b.slot.ackedIDs(), "e000 e001 e002")
		b.expect("stored", b.stored(), "e000 e001 e002")
		b.expect("held", b.exposed(series), "")
		b.expect("age", b.exposed("outboxd_oldest_unpublished_age_seconds"), "0")
		if s := b.Status(); !s.Ready || b.logged.count("cleared=missing_topic") != 1 {
			t.Errorf("status %+v, log:\n%s", s, b.logged)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestStopWhileHeld: a stop tells of the event that waits.
func TestStopWhileHeld(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{Err: &publisher.HeldError{Reason: "missing_topic", Target: "t"}}
		}
		b.slot.insert(event(0), "one")
		b.start()
		settle(10 * time.Second)
		if err := b.finish(); err != nil {
			t.Error(err)
		}
		if n := b.logged.count("with an event that waits"); n != 1 {
			t.Errorf("%d lines tell of the event:\n%s", n, b.logged)
		}
	})
}

func TestStandby(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.slot.open = func(attempt int) error {
			if attempt <= 5 {
				return &cdc.Error{Code: cdc.CodeSlotActive, Detail: "replication slot is active for PID 4711"}
			}
			return nil
		}
		b.slot.insert(event(0), "one")
		b.FailFast = true // standing by is no fault
		b.start()
		settle(4 * time.Second)
		if s := b.Status(); s.Phase != relay.StandingBy || !s.Ready || !strings.Contains(s.Reason, "4711") {
			t.Errorf("status %+v", s)
		}
		b.expect("leader", b.exposed("outboxd_leader"), "0")
		settle(7 * time.Second) // 5 pauses of 1 to 2 s
		b.expect("stored", b.stored(), "e000")
		b.expect("leader", b.exposed("outboxd_leader"), "1")
		if n := b.logged.count("msg=\"standby"); n != 1 || b.logged.count("4711") != 1 {
			t.Errorf("want who holds the slot, once:\n%s", b.logged)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestSourceErrors: which errors of the read side stop the relay, at the start
// and once it has worked.
func TestSourceErrors(t *testing.T) {
	for _, tt := range []struct {
		code      cdc.Code
		first     bool // stops at the start
		later     bool // stops once it has worked
		exit      int
		notBefore time.Duration // of the next attempt, when it goes on
	}{
		{cdc.CodeUnreachable, false, false, 0, 50 * time.Millisecond},
		{cdc.CodeServerStopping, false, false, 0, 50 * time.Millisecond},
		{cdc.CodeAuth, true, false, 77, 30 * time.Second},
		{cdc.CodeNotPrimary, true, false, 78, 30 * time.Second},
		{cdc.CodeSlotMissing, true, true, 78, 0},
		{cdc.CodePrivilege, true, true, 77, 0},
		{cdc.CodeMalformedStream, true, true, 70, 0},
	} {
		t.Run(string(tt.code), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				for _, at := range []int{1, 2} {
					b := newBench(t)
					var failed, again time.Time
					b.slot.open = func(attempt int) error {
						switch attempt {
						case at:
							failed = time.Now()
							return &cdc.Error{Code: tt.code, Detail: "scripted", Fix: "mend it"}
						case at + 1:
							again = time.Now()
						}
						return nil
					}
					b.start()
					settle(0)
					if at == 2 {
						b.slot.broken <- &cdc.Error{Code: cdc.CodeUnreachable, Detail: "lost"}
					}
					if at == 1 && tt.first || at == 2 && tt.later {
						stop := b.stopped()
						if stop.Fault.Exit != tt.exit || stop.Fault.Code != string(tt.code) || stop.Fault.Fix != "mend it" {
							t.Errorf("attempt %d: %+v, want exit code %d", at, stop.Fault, tt.exit)
						}
						continue
					}
					settle(2 * time.Minute)
					if pause := again.Sub(failed); again.IsZero() || pause < tt.notBefore {
						t.Errorf("attempt %d: the next one came after %s, want at least %s", at, pause, tt.notBefore)
					}
					if err := b.finish(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestFailFast: what is otherwise retried for ever ends the relay with 69.
func TestFailFast(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.FailFast = true
		b.slot.open = func(int) error { return &cdc.Error{Code: cdc.CodeUnreachable, Detail: "refused"} }
		b.start()
		if stop := b.stopped(); stop.Fault.Exit != relay.ExitUnavailable {
			t.Errorf("%+v", stop.Fault)
		}
		if b.slot.attempts != 1 {
			t.Errorf("%d attempts", b.slot.attempts)
		}
	})
}

// TestBrokerUnreachable: the source is let go before each pause, and the phase
// says which of the two is missing.
func TestBrokerUnreachable(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.OpenPublisher = func(context.Context, publisher.Done, publisher.Guard) (publisher.Publisher, error) {
			return nil, errors.New("dial: connection refused")
		}
		b.start()
		settle(time.Minute)
		if s := b.Status(); s.Phase != relay.Retrying || s.Ready || !strings.Contains(s.Reason, "open broker: dial") {
			t.Errorf("status %+v", s)
		}
		b.expect("leader", b.exposed("outboxd_leader"), "1") // it has the slot, again and again
		if b.logged.count("code=broker_unreachable") != 1 {
			t.Errorf("log:\n%s", b.logged)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
		if opened, closed := b.slot.sessions(); opened != len(closed) {
			t.Errorf("%d streams opened, %d closed", opened, len(closed))
		}
	})
}

// A server that waits for its standby sends nothing but the news of it.
func TestServerHoldsBack(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		settle(time.Second)
		says := func(heldBack string) {
			b.slot.mu.Lock()
			defer b.slot.mu.Unlock()
			st := &b.slot.stats
			st.SilenceLimit, st.LastReceived, st.HeldBack, st.HeldBackAt = 15*time.Second, time.Now(), heldBack, time.Now()
		}
		says("slot s of a standby is not active")
		settle(2 * time.Second)
		if s := b.Status(); s.Ready || !strings.Contains(s.Reason, "slot s of a standby") {
			t.Errorf("held back: %+v", s)
		}
		says("")
		settle(2 * time.Second)
		if s := b.Status(); !s.Ready {
			t.Errorf("afterwards: %+v", s)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// A slot that keeps more than it may is told of; events flow, so it is ready.
func TestSlotBeyondLimitIsTold(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		settle(time.Second)
		keeps := func(retained int64, streaming bool) {
			b.slot.mu.Lock()
			defer b.slot.mu.Unlock()
			b.slot.stats.Streaming = streaming
			b.slot.stats.Slot = cdc.SlotStats{RetainedBytes: retained, RetainedLimit: 100}
		}
		for _, tt := range []struct {
			retained  int64
			streaming bool
			want      string
		}{
			{100, true, ""},
			{101, true, "the slot keeps 101 bytes of WAL, and may keep 100"},
			{101, false, ""}, // of a session that is over
		} {
			keeps(tt.retained, tt.streaming)
			if s := b.Status(); !s.Ready || s.Reason != tt.want {
				t.Errorf("%+v: status %+v", tt, s)
			}
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestStalled: readiness follows progress, liveness does not.
func TestStalled(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		resume := b.broker.Stall()
		b.slot.insert(event(0), "one")
		b.start()
		settle(29 * time.Second)
		if s := b.Status(); !s.Ready {
			t.Errorf("after 29 s: %+v", s)
		}
		settle(4 * time.Second)
		if s := b.Status(); s.Ready || !strings.Contains(s.Reason, "the broker has not acked") {
			t.Errorf("after 33 s: %+v", s)
		}
		if err := b.Live(); err != nil {
			t.Errorf("a slow broker made the process dead: %v", err)
		}
		resume()
		settle(2 * time.Second)
		if s := b.Status(); !s.Ready || b.logged.count("msg=stalled") != 1 || b.logged.count("moving again") != 1 {
			t.Errorf("after the ack: %+v\n%s", s, b.logged)
		}
		b.slot.mu.Lock()
		b.slot.stats.SilenceLimit = 3 * time.Second
		b.slot.mu.Unlock()
		settle(10 * time.Second)
		if s := b.Status(); s.Ready || !strings.Contains(s.Reason, "walsender") {
			t.Errorf("a silent server: %+v", s)
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}
