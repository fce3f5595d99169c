package publishertest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// verdict is a testing.TB that records failures instead of failing the test.
// The embedded TB serves what the suite does not expect to fail.
type verdict struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (v *verdict) Helper() {}

func (v *verdict) Cleanup(f func()) { v.cleanups = append(v.cleanups, f) }

func (v *verdict) Errorf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failures = append(v.failures, fmt.Sprintf(format, args...))
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}

// judge runs one check in a goroutine of its own, which Fatalf may end.
func judge(t *testing.T, c publishertest.Check, b publishertest.Backend) []string {
	v := &verdict{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(v, b)
	}()
	<-done
	for _, f := range v.cleanups {
		f()
	}
	return v.failures
}

// mutant is a publisher with one fault in front of a sound one.
type mutant struct {
	publisher.Publisher
	fake *publishertest.Fake
	done publisher.Done

	publish func(m *mutant, ctx context.Context, r *publisher.Record) error
	closing func(m *mutant, ctx context.Context) error
	inspect func(m *mutant, ctx context.Context, r *publisher.Record) error

	n    int
	kept *publisher.Record

	open    atomic.Int64    // records without an outcome
	stopped context.Context // ends with stop: nothing more is taken
	stop    context.CancelFunc
}

func (m *mutant) Publish(ctx context.Context, r *publisher.Record) error {
	m.n++
	m.open.Add(1)
	publish := m.Publisher.Publish
	if m.publish != nil {
		publish = func(ctx context.Context, r *publisher.Record) error { return m.publish(m, ctx, r) }
	}
	err := publish(ctx, r)
	if err != nil {
		m.open.Add(-1)
	}
	return err
}

func (m *mutant) Inspect(ctx context.Context, r *publisher.Record) error {
	if m.inspect != nil {
		return m.inspect(m, ctx, r)
	}
	return m.Publisher.(publisher.Inspector).Inspect(ctx, r)
}

func (m *mutant) Close(ctx context.Context) error {
	if m.closing != nil {
		return m.closing(m, ctx)
	}
	return m.Publisher.Close(ctx)
}

type fault struct {
	name string
	// done stands between the sound publisher and the suite.
	done    func(m *mutant, r *publisher.Record, err error)
	publish func(m *mutant, ctx context.Context, r *publisher.Record) error
	closing func(m *mutant, ctx context.Context) error
	inspect func(m *mutant, ctx context.Context, r *publisher.Record) error
	// deaf drops the guard.
	deaf bool
	// read changes what the broker gives back.
	read func(rs []publisher.Record) []publisher.Record
	// window of the fake behind.
	window int
}

var faults = []fault{
	{name: "acks early", done: func(m *mutant, r *publisher.Record, _ error) { m.done(r, nil) }},
	{name: "double done", done: func(m *mutant, r *publisher.Record, err error) {
		m.done(r, err)
		if r.Token == 7 {
			m.done(r, err)
		}
	}},
	{name: "forgets one", done: func(m *mutant, r *publisher.Record, err error) {
		if r.Token != 7 {
			m.done(r, err)
		}
	}},
	{name: "calls an unknown outcome a failure", done: func(m *mutant, r *publisher.Record, err error) {
		if err != nil {
			err = fmt.Errorf("failed, says it: %v", err)
		}
		m.done(r, err)
	}},
	{name: "fails what it stored", done: func(m *mutant, r *publisher.Record, err error) {
		if r.Token == 7 {
			err = fmt.Errorf("lost on the way")
		}
		m.done(r, err)
	}},
	{name: "swaps two of a key", publish: swapTwo},
	{name: "stores twice", publish: func(m *mutant, ctx context.Context, r *publisher.Record) error {
		if m.n == 7 {
			again := *r
			again.Token = 1 << 40
			_ = m.Publisher.Publish(ctx, &again)
		}
		return m.Publisher.Publish(ctx, r)
	}, done: func(m *mutant, r *publisher.Record, err error) {
		if r.Token != 1<<40 {
			m.done(r, err)
		}
	}},
	{name: "continues behind a refusal", publish: skipRefused},
	{name: "mends itself after a failure", publish: mendRefused},
	{name: "aborts with the culprit's error", done: func(m *mutant, r *publisher.Record, err error) {
		if err != nil {
			err = &publisher.PoisonError{Reason: "bad_record"}
		}
		m.done(r, err)
	}},
	{name: "takes without bound", window: 1 << 20},
	{name: "publish does not obey its context", publish: func(m *mutant, ctx context.Context, r *publisher.Record) error {
		err := m.Publisher.Publish(context.WithoutCancel(ctx), r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}},
	{name: "close does not wait", closing: func(m *mutant, ctx context.Context) error {
		go func() { _ = m.Publisher.Close(ctx) }()
		return nil
	}},
	{name: "close waits for ever", closing: func(m *mutant, ctx context.Context) error {
		return m.Publisher.Close(context.WithoutCancel(ctx))
	}},
	{name: "close sends what was queued", publish: publishUntilStopped, closing: func(m *mutant, ctx context.Context) error {
		m.stop()
		for m.open.Load() > 0 && ctx.Err() == nil {
			runtime.Gosched()
		}
		return m.Publisher.Close(ctx)
	}},
	{name: "close gives up what is on its way", closing: func(m *mutant, ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return m.Publisher.Close(ctx)
	}},
	{name: "close calls unknown what was never sent", done: func(m *mutant, r *publisher.Record, err error) {
		if errors.Is(err, publisher.ErrClosed) {
			err = fmt.Errorf("%w: %w", err, publisher.ErrUnknown)
		}
		m.done(r, err)
	}},
	{name: "close says nothing of what it gave up", closing: func(m *mutant, ctx context.Context) error {
		_ = m.Publisher.Close(ctx)
		return nil
	}},
	{name: "close twice panics or fails", closing: func(m *mutant, ctx context.Context) error {
		if m.kept != nil {
			return fmt.Errorf("already closed")
		}
		m.kept = &publisher.Record{}
		return m.Publisher.Close(ctx)
	}},
	{name: "inspect knows nothing", inspect: func(*mutant, context.Context, *publisher.Record) error { return nil }},
	{name: "inspect refuses what is sound", inspect: func(*mutant, context.Context, *publisher.Record) error {
		return &publisher.PoisonError{Reason: "bad_record"}
	}},
	{name: "inspect breaks the publisher", inspect: func(m *mutant, ctx context.Context, r *publisher.Record) error {
		err := m.Publisher.(publisher.Inspector).Inspect(ctx, r)
		if err != nil {
			m.fake.Cut()
		}
		return err
	}},
	{name: "ignores the guard", deaf: true},
	{name: "turns nil into empty", read: func(rs []publisher.Record) []publisher.Record {
		for i := range rs {
			rs[i].Value = append([]byte{}, rs[i].Value...)
		}
		return rs
	}},
	{name: "turns an empty key into none", read: func(rs []publisher.Record) []publisher.Record {
		for i := range rs {
			if len(rs[i].Key) == 0 {
				rs[i].Key = nil
			}
		}
		return rs
	}},
	{name: "makes text of bytes", read: func(rs []publisher.Record) []publisher.Record {
		for i := range rs {
			rs[i].Headers = append([]publisher.Header(nil), rs[i].Headers...)
			for j, h := range rs[i].Headers {
				rs[i].Headers[j].Value = []byte(strings.ToValidUTF8(string(h.Value), "?"))
			}
		}
		return rs
	}},
	{name: "drops repeated headers", read: func(rs []publisher.Record) []publisher.Record {
		for i := range rs {
			if n := len(rs[i].Headers); n > 3 {
				rs[i].Headers = rs[i].Headers[:n-1]
			}
		}
		return rs
	}},
	{name: "loses what it acked", read: func(rs []publisher.Record) []publisher.Record {
		return rs[:max(0, len(rs)-1)]
	}},
	{name: "invents a record", read: func(rs []publisher.Record) []publisher.Record {
		return append(rs, publisher.Record{Topic: "fake", Value: []byte("never offered")})
	}},
}

// swapTwo holds the seventh record back until the next of its key has gone.
func swapTwo(m *mutant, ctx context.Context, r *publisher.Record) error {
	switch {
	case m.n == 7:
		m.kept = r
		return nil
	case m.kept != nil && string(m.kept.Key) == string(r.Key):
		err := m.Publisher.Publish(ctx, r)
		_ = m.Publisher.Publish(ctx, m.kept)
		m.kept = nil
		return err
	}
	return m.Publisher.Publish(ctx, r)
}

// publishUntilStopped takes nothing after stop.
func publishUntilStopped(m *mutant, ctx context.Context, r *publisher.Record) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.stopped, cancel)()
	err := m.Publisher.Publish(ctx, r)
	if err != nil && m.stopped.Err() != nil {
		return publisher.ErrClosed
	}
	return err
}

// skipRefused answers for the refused record itself and lets the others by,
// for a while.
func skipRefused(m *mutant, ctx context.Context, r *publisher.Record) error {
	if strings.HasPrefix(string(r.Value), refused) {
		m.kept = r
		return nil
	}
	if m.kept != nil && string(m.kept.Key) == string(r.Key) {
		err := m.Publisher.Publish(ctx, r)
		_ = m.Publisher.Publish(ctx, m.kept)
		m.kept = nil
		return err
	}
	return m.Publisher.Publish(ctx, r)
}

// mendRefused reports the refused record and goes on as if nothing had been.
func mendRefused(m *mutant, ctx context.Context, r *publisher.Record) error {
	if strings.HasPrefix(string(r.Value), refused) {
		m.done(r, &publisher.PoisonError{Reason: "bad_record"})
		return nil
	}
	if m.n > 5000 {
		return &publisher.PoisonError{Reason: "bad_record"}
	}
	return m.Publisher.Publish(ctx, r)
}

func (f fault) backend(testing.TB) *publishertest.Target {
	fake := fakeBroker(f.window)
	target := fakeTarget(fake)
	target.Patience = 2 * time.Second
	target.Open = func(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
		m := &mutant{fake: fake, done: done, publish: f.publish, closing: f.closing, inspect: f.inspect}
		if f.deaf {
			guard = nil
		}
		m.stopped, m.stop = context.WithCancel(context.Background())
		inner := func(r *publisher.Record, err error) {
			m.open.Add(-1)
			if f.done != nil {
				f.done(m, r, err)
			} else {
				done(r, err)
			}
		}
		var err error
		m.Publisher, err = fake.Open(inner, guard)
		return m, err
	}
	if f.read != nil {
		target.Read = func() []publisher.Record { return f.read(fake.Stored()) }
	}
	return target
}

// TestSuiteCatchesLeak comes first and alone: goroutines of other tests would
// be counted.
func TestSuiteCatchesLeak(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	leak := fault{closing: func(m *mutant, ctx context.Context) error {
		go func() { <-stop }()
		return m.Publisher.Close(ctx)
	}}
	for _, c := range publishertest.Checks() {
		if c.Name == "goroutines" && len(judge(t, c, leak.backend)) == 0 {
			t.Errorf("the suite did not see a goroutine that stays")
		}
	}
}

// TestSuiteCatches runs the suite against publishers with one fault each: a
// check that nothing fails would prove nothing.
func TestSuiteCatches(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range publishertest.Checks() {
				if c.Name == "goroutines" {
					continue // it would count those of the other mutants
				}
				if failures := judge(t, c, f.backend); len(failures) > 0 {
					t.Logf("caught by %q: %s", c.Name, failures[0])
					return
				}
			}
			t.Errorf("no check of the suite caught this publisher")
		})
	}
}
