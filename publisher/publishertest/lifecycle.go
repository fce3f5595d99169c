package publishertest

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

// enough is how many bytes no publisher may hold.
const enough = 256 << 20

// warm has one record acked, so that connections stand and topics are known.
func (s *session) warm() {
	s.t.Helper()
	r := s.record(key(0))
	s.mustPublish(r)
	if err := s.await(r); err != nil {
		s.t.Fatalf("first record: %v", err)
	}
}

// fill publishes large records until Publish has blocked for a moment.
func (s *session) fill() {
	s.t.Helper()
	value := bytes.Repeat([]byte("x"), 64<<10)
	for size := 0; size < enough; size += len(value) {
		r := s.record(key(len(s.offered) % 8))
		r.Value = value
		err := s.publishFor(moment, r)
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil {
			s.t.Fatalf("publish record %d while nothing arrives: %v", r.Token, err)
		}
	}
	s.t.Fatalf("publish took %d bytes while nothing arrives, and does not block", enough)
}

// stalled returns a session nothing of which arrives until resume is called; nil
// for a backend that cannot be stalled.
func stalled(t testing.TB, b Backend) (s *session, resume func()) {
	target := b(t)
	if target.Stall == nil {
		return nil, nil
	}
	s = open(t, target, nil)
	s.warm()
	return s, target.Stall()
}

// publishFor offers r and expects Publish to return soon after timeout.
func (s *session) publishFor(timeout time.Duration, r *publisher.Record) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	returned := make(chan error, 1)
	go func() { returned <- s.publish(ctx, r) }()
	select {
	case err := <-returned:
		return err
	case <-time.After(timeout + s.patience):
		s.t.Fatalf("publish has not returned %v after its context ended", s.patience)
		return nil
	}
}

func checkFullWindow(t testing.TB, b Backend) {
	s, resume := stalled(t, b)
	if s == nil {
		return
	}
	defer resume()
	s.fill()
	if n := len(s.failed()); n > 0 {
		t.Errorf("%d records failed while the window was full", n)
	}
	resume()
	s.mustPublish(s.record(key(0)))
	s.mustCloseAcked()
}

// checkClose closes when everything has its outcome.
func checkClose(t testing.TB, b Backend) {
	target := b(t)
	s := open(t, target, nil)
	for i := range 500 {
		s.mustPublish(s.record(key(i % 10)))
	}
	s.mustCloseAcked()
	if err := s.close(s.patience); err != nil {
		t.Errorf("close again: %v", err)
	}
	if err := s.publish(context.Background(), s.record(key(0))); !errors.Is(err, publisher.ErrClosed) {
		t.Errorf("publish after close returns %v, want ErrClosed", err)
	}
	s.judge()

	unused := open(t, target, nil)
	if err := unused.close(s.patience); err != nil {
		t.Errorf("close an unused publisher: %v", err)
	}
}

// checkCloseFull closes while nothing arrives, as much as possible is queued
// and Publish waits for room.
func checkCloseFull(t testing.TB, b Backend) {
	s, resume := stalled(t, b)
	if s == nil {
		return
	}
	defer resume()
	s.fill()
	blocked := s.publishBlocked()
	closed := s.startClose(s.patience)
	select {
	case err := <-blocked:
		if !errors.Is(err, publisher.ErrClosed) {
			t.Errorf("the blocked publish returns %v, want ErrClosed", err)
		}
	case <-time.After(s.patience):
		t.Fatalf("publish is still blocked %v after close has begun", s.patience)
	}
	select {
	case err := <-closed:
		t.Fatalf("close has not waited for what was on its way: %v", err)
	case <-time.After(moment):
	}
	resume()
	if err := s.awaitClose(closed, s.patience); err == nil {
		t.Errorf("close gave records up and returns nil")
	}
	s.judgeClosed()
	if n := len(s.failed()); n == 0 || n >= s.takenCount()-1 {
		t.Errorf("%d of %d records failed: want those that had not begun to be sent, and not the others", n, s.takenCount())
	}
}

// publishBlocked publishes in the background, what was refused room before,
// and returns a channel for the error that ends it.
func (s *session) publishBlocked() <-chan error {
	blocked := make(chan error, 1)
	value := bytes.Repeat([]byte("x"), 64<<10)
	go func() {
		for {
			r := s.record(key(0))
			r.Value = value
			if err := s.publish(context.Background(), r); err != nil {
				blocked <- err
				return
			}
		}
	}()
	return blocked
}

// checkCloseBurst closes in the middle of a stream.
func checkCloseBurst(t testing.TB, b Backend) {
	for range 3 {
		s := open(t, b(t), nil)
		s.warm()
		for i := range 2000 {
			s.mustPublish(s.record(key(i % 10)))
		}
		_ = s.close(s.patience)
		s.judgeClosed()
	}
}

// judgeClosed judges a session that was closed with time enough: what was on
// its way has been awaited, what was given up was never sent.
func (s *session) judgeClosed() {
	s.t.Helper()
	for token, err := range s.failed() {
		if class(err) != "closed" {
			s.t.Errorf("record %d is given up with %q, want ErrClosed and nothing unknown", token, err)
		}
	}
	s.judge()
}

// checkCloseGivesUp has Close run out of time.
func checkCloseGivesUp(t testing.TB, b Backend) {
	s, resume := stalled(t, b)
	if s == nil {
		return
	}
	defer resume()
	s.fill()
	if err := s.close(moment); err == nil {
		t.Errorf("close gave records up and returns nil")
	}
	resume()
	failed := s.failed()
	if len(failed) == 0 {
		t.Errorf("no record failed though nothing arrived")
	}
	for token, err := range failed {
		if !errors.Is(err, publisher.ErrClosed) {
			t.Errorf("record %d is given up with %q, want an error that wraps ErrClosed", token, err)
		}
	}
	s.judge()
}

// checkGuard withdraws the right to publish: nothing more arrives.
func checkGuard(t testing.TB, b Backend) {
	target := b(t)
	errLease := errors.New("lease ran out")
	var refused atomic.Bool
	s := open(t, target, func() error {
		if refused.Load() {
			return errLease
		}
		return nil
	})
	s.warm()
	refused.Store(true)
	before := len(s.offered)
	r := s.record(key(0))
	if s.publish(context.Background(), r) == nil {
		if err := s.await(r); err == nil {
			t.Errorf("a record was acked that the guard refused")
		}
	}
	_ = s.publishUntilBroken(key(0))
	refused.Store(false) // a lease that comes back does not mend the publisher
	if err := s.publish(context.Background(), s.record(key(1))); err == nil {
		t.Errorf("publish takes records again after the guard refused")
	}
	_ = s.close(s.patience)
	s.judge()
	for _, got := range target.Read() {
		if token, ok := s.tokenOf(&got); ok && token >= uint64(before) {
			t.Errorf("record %d arrived though the guard refused", token)
		}
	}
}

// checkCut breaks the connections under load. A backend may mend them, or
// break; either way its outcomes are true and no hole opens.
func checkCut(t testing.TB, b Backend) {
	target := b(t)
	if target.Cut == nil {
		return
	}
	s := open(t, target, nil)
	s.warm()
	for i := range 3000 {
		if s.publish(t.Context(), s.record(key(i%10))) != nil {
			break
		}
		if i == 1000 || i == 2000 {
			target.Cut()
		}
	}
	s.awaitAll()
	_ = s.close(s.patience)
	s.judge()

	next := open(t, target, nil)
	next.warm()
	next.mustCloseAcked()
}

// checkGoroutines opens, uses and closes publishers and expects that nothing
// of them stays.
func checkGoroutines(t testing.TB, b Backend) {
	target := b(t)
	cycle := func() {
		s := open(t, target, nil)
		for i := range 50 {
			s.mustPublish(s.record(key(i)))
		}
		s.mustCloseAcked()
	}
	cycle()
	base := runtime.NumGoroutine()
	for range 3 {
		cycle()
	}
	// Longer than a broker in this process may hold the fetch of a reader.
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > base {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Fatalf("%d goroutines, %d before three publishers were opened and closed\n%s",
				runtime.NumGoroutine(), base, stacks)
		}
		<-tick.C
	}
}
