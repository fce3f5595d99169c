package relay_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// TestDrainWaitsForAcks: what was taken before the stop is acked before the
// stream is closed (the script fails an ack that comes later), and nothing new
// is taken.
func TestDrainWaitsForAcks(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: 10 * time.Second}
		}
		b.broker.Lanes = 2
		b.slot.insert(event(0), "one")
		b.slot.insert(event(1), "two")
		b.start()
		settle(time.Second)
		b.stop()
		settle(time.Second)
		b.slot.insert(event(2), "three")
		if s := b.Status(); s.Phase != relay.Stopping || s.Ready {
			t.Errorf("status while draining: %+v", s)
		}
		if err := <-b.result; err != nil {
			t.Error(err)
		}
		if got := b.slot.ackedIDs(); !strings.Contains(got, event(0)) || !strings.Contains(got, event(1)) || strings.Contains(got, event(2)) {
			t.Errorf("acked: %s", got)
		}
		if s := b.Status(); s.Phase != relay.Stopped || s.Ready {
			t.Errorf("status after Run: %+v", s)
		}
	})
}

// slowBench is half-way through the first of five events of a key, to a broker
// that takes a second for each.
func slowBench(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	b.broker.Script = func(*publisher.Record) publishertest.Answer {
		return publishertest.Answer{After: time.Second}
	}
	b.broker.Lanes = 1
	for i := range 5 {
		b.slot.insert(event(i), "one")
	}
	b.start()
	settle(500 * time.Millisecond)
	return b
}

// TestDrainPublishesWhatWaits: what was taken is published before the
// publisher is closed, if the session ends without a failure: after a stop, and
// in front of an event of which no record can be made.
func TestDrainPublishesWhatWaits(t *testing.T) {
	for name, end := range map[string]func(*bench){
		"stop": func(b *bench) { b.stop() },
		"poison": func(b *bench) {
			b.slot.commit(message{ids: []string{event(9)}, Message: cdc.Message{
				Kind: cdc.Insert, Relation: outboxTable, Row: row(event(9), "order", "NULL", "placed", "{}"),
			}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				b := slowBench(t)
				began := time.Now()
				end(b)
				<-b.result
				if took := time.Since(began); took != 4500*time.Millisecond {
					t.Errorf("the drain took %s", took)
				}
				b.expect("acked", b.slot.ackedIDs(), "e000 e001 e002 e003 e004")
				if opened, _ := b.slot.sessions(); opened != 1 {
					t.Errorf("%d sessions", opened)
				}
			})
		})
	}
}

// TestWaitingIsNotSentAfterLoss: a successor may publish it already, and more
// behind it. What is on its way is awaited.
func TestWaitingIsNotSentAfterLoss(t *testing.T) {
	for name, lose := range map[string]func(*bench){
		"running": func(b *bench) { b.slot.broken <- &cdc.Error{Code: cdc.CodeUnreachable} },
		"draining": func(b *bench) {
			b.stop()
			settle(100 * time.Millisecond)
			b.slot.loseStream()
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				b := slowBench(t)
				b.slot.take(true)
				lose(b)
				settle(10 * time.Second)
				b.expect("stored", b.stored(), "e000")
				b.expect("acked", b.slot.ackedIDs(), "e000")
				if err := b.finish(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// stuck is a publisher that takes two records, has the first fail when it is
// told to, and knows nothing of the second until it is closed.
type stuck struct {
	done   publisher.Done
	taken  []*publisher.Record
	closed time.Time
}

func (p *stuck) Publish(_ context.Context, r *publisher.Record) error {
	if len(p.taken) == 2 {
		return errors.New("cannot reach the broker")
	}
	p.taken = append(p.taken, r)
	return nil
}

func (p *stuck) fail() {
	r := p.taken[0]
	p.taken[0] = nil
	p.done(r, errors.New("lost"))
}

func (p *stuck) Close(context.Context) error {
	p.closed = time.Now()
	for _, r := range p.taken {
		if r != nil {
			p.done(r, publisher.ErrClosed)
		}
	}
	return nil
}

// TestFailureEndsDrain: when something cannot be published, nobody waits for
// the rest.
func TestFailureEndsDrain(t *testing.T) {
	for name, fail := range map[string]func(*bench, *stuck){
		"of a record": func(_ *bench, p *stuck) { p.fail() },
		"of a record while draining": func(b *bench, p *stuck) {
			b.stop()
			synctest.Wait()
			p.fail()
		},
		"of publish": func(b *bench, _ *stuck) { b.slot.insert(event(2), "one") },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				b := newBench(t)
				b.FailFast = true
				p := &stuck{}
				b.OpenPublisher = func(_ context.Context, done publisher.Done, _ publisher.Guard) (publisher.Publisher, error) {
					p.done = done
					return p, nil
				}
				b.slot.insert(event(0), "one")
				b.slot.insert(event(1), "one")
				b.start()
				settle(time.Second)
				failed := time.Now()
				fail(b, p)
				<-b.result
				if waited := p.closed.Sub(failed); waited != 0 {
					t.Errorf("the publisher was closed %s after the failure", waited)
				}
			})
		})
	}
}

// TestDrainIsBounded by the drain timeout after a stop, by 2 s when replication
// is lost or the server stops, which waits for us, and by the lower of the two
// when both are so.
func TestDrainIsBounded(t *testing.T) {
	stop := func(b *bench) { b.stop() }
	stopThenLost := func(after time.Duration) func(*bench) {
		return func(b *bench) {
			b.stop()
			settle(after)
			b.slot.loseStream()
		}
	}
	broken := func(code cdc.Code) func(*bench) {
		return func(b *bench) { b.slot.broken <- &cdc.Error{Code: code} }
	}
	both := func(b *bench) {
		b.slot.leave = &cdc.Error{Code: cdc.CodeServerStopping}
		b.stop()
	}
	tests := []struct {
		name          string
		end           func(b *bench)
		timeout, want time.Duration
	}{
		{"stop", stop, 7 * time.Second, 7 * time.Second},
		{"server stopping", broken(cdc.CodeServerStopping), 7 * time.Second, 2 * time.Second},
		{"server stopping at the moment of a stop", both, 7 * time.Second, 2 * time.Second},
		{"server stopping, short timeout", broken(cdc.CodeServerStopping), time.Second, time.Second},
		{"server stopping during the drain", stopThenLost(3 * time.Second), 7 * time.Second, 5 * time.Second},
		{"server stopping late in the drain", stopThenLost(6 * time.Second), 7 * time.Second, 7 * time.Second},
		{"replication lost", broken(cdc.CodeUnreachable), 7 * time.Second, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				b := newBench(t)
				b.DrainTimeout = tt.timeout
				b.broker.Stall()
				b.slot.insert(event(0), "one")
				b.start()
				settle(time.Second)
				began := time.Now()
				tt.end(b)
				settle(10 * time.Second)
				_, closed := b.slot.sessions()
				if took := closed[0].Sub(began); took != tt.want {
					t.Errorf("the drain took %s, want %s", took, tt.want)
				}
				b.expect("acked", b.slot.ackedIDs(), "")
				if err := b.finish(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestDrainIsNoStall: whoever drains is alive, and need not be told that he
// waits, only that it was in vain.
func TestDrainIsNoStall(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.DrainTimeout = time.Minute
		b.broker.Stall()
		b.slot.insert(event(0), "one")
		b.start()
		settle(time.Second)
		b.stop()
		settle(50 * time.Second)
		if err := b.Live(); err != nil {
			t.Errorf("dead while it drains: %v", err)
		}
		if err := <-b.result; err != nil {
			t.Error(err)
		}
		if b.logged.count("msg=stalled") != 0 || b.logged.count(`level=WARN msg="not everything was acked`) != 1 {
			t.Errorf("log:\n%s", b.logged)
		}
	})
}

// TestAcksCollectedWhenReplicationIsLost: acks on the way need not be repeated.
func TestAcksCollectedWhenReplicationIsLost(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Script = func(*publisher.Record) publishertest.Answer {
			return publishertest.Answer{After: time.Second}
		}
		b.slot.insert(event(0), "one")
		b.start()
		settle(500 * time.Millisecond)
		b.slot.broken <- &cdc.Error{Code: cdc.CodeUnreachable}
		settle(10 * time.Second)
		b.expect("stored", b.stored(), event(0))
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// TestGuard: with the lease gone nothing more reaches the broker, and the next
// session goes on.
func TestGuard(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		var lost atomic.Bool
		b.slot.guard = func() error {
			if lost.Load() {
				return &cdc.Error{Code: cdc.CodeLostLead, Detail: "no sign of life"}
			}
			return nil
		}
		b.start()
		b.slot.insert(event(0), "one")
		settle(time.Second)
		lost.Store(true)
		b.slot.insert(event(1), "one")
		settle(10 * time.Second)
		b.expect("stored", b.stored(), event(0))
		if s := b.Status(); s.Phase != relay.Retrying || !strings.Contains(s.Reason, "lost_lead") {
			t.Errorf("status %+v", s)
		}
		lost.Store(false)
		settle(10 * time.Second)
		b.expect("stored", b.stored(), "e000 e001")
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}

// rogue breaks the contract of a publisher: it reports each outcome twice, and
// one more after Close.
type rogue struct {
	done  publisher.Done
	taken []*publisher.Record
}

func (p *rogue) Publish(_ context.Context, r *publisher.Record) error {
	p.taken = append(p.taken, r)
	if len(p.taken) > 1 {
		return nil
	}
	p.done(r, nil)
	p.done(r, nil)
	p.done(&publisher.Record{Token: 1 << 40}, errors.New("of no record"))
	return nil
}

func (p *rogue) Close(context.Context) error { return nil }

// TestRoguePublisher: outcomes that nobody waits for are counted and do not
// reach the source (the script fails the test if they do).
func TestRoguePublisher(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.slot.published = nil
		p := &rogue{}
		b.OpenPublisher = func(_ context.Context, done publisher.Done, _ publisher.Guard) (publisher.Publisher, error) {
			p.done = done
			return p, nil
		}
		b.slot.insert(event(0), "one")
		b.slot.insert(event(1), "one")
		b.start()
		settle(time.Second)
		b.expect("violations", b.exposed(`outboxd_invariant_violations_total{kind="ack"}`), "2")
		if err := b.finish(); err != nil {
			t.Error(err)
		}
		p.done(p.taken[1], nil)
		b.expect("acked", b.slot.ackedIDs(), event(0))
		b.expect("violations", b.exposed(`outboxd_invariant_violations_total{kind="ack"}`), "3")
	})
}
