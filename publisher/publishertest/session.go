package publishertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// DefaultPatience is how long a check waits for what must happen.
	DefaultPatience = 30 * time.Second
	// moment is how long a check waits for what must not happen.
	moment = 300 * time.Millisecond
	// idHeader is the first header of every record of the suite.
	idHeader = "suite-id"
)

// session is one publisher under test and the record of what was asked of it
// and what it answered.
type session struct {
	t      testing.TB
	target *Target
	pub    publisher.Publisher
	prefix string // of the ids of its records

	patience time.Duration

	offered []*publisher.Record // in the order of Publish, Token = index
	taken   []bool

	mu       sync.Mutex
	outcomes map[uint64][]error
	closed   bool
	late     int
	changed  chan struct{}
}

func open(t testing.TB, target *Target, guard publisher.Guard) *session {
	t.Helper()
	target.sessions++
	s := &session{
		t: t, target: target, prefix: fmt.Sprintf("%d/", target.sessions),
		outcomes: make(map[uint64][]error),
		changed:  make(chan struct{}, 1),
		patience: cmp.Or(target.Patience, DefaultPatience),
	}
	pub, err := target.Open(s.done, guard)
	if err != nil {
		t.Fatalf("open publisher: %v", err)
	}
	s.pub = pub
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), moment)
		defer cancel()
		_ = pub.Close(ctx)
	})
	return s
}

func (s *session) done(r *publisher.Record, err error) {
	s.mu.Lock()
	s.outcomes[r.Token] = append(s.outcomes[r.Token], err)
	if s.closed {
		s.late++
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// record makes the next record of key. Nil is no key.
func (s *session) record(key []byte) *publisher.Record {
	id := s.prefix + strconv.Itoa(len(s.offered))
	return &publisher.Record{
		Topic: s.target.Topic,
		Key:   key,
		Value: []byte("value " + id),
		Headers: []publisher.Header{
			{Name: idHeader, Value: []byte(id)},
			{Name: "domain", Value: key},
		},
		ID: id, Type: "suite.checked", ContentType: "text/plain", Time: time.Now(),
	}
}

// publish offers r and says whether it was taken.
func (s *session) publish(ctx context.Context, r *publisher.Record) error {
	r.Token = uint64(len(s.offered))
	s.offered = append(s.offered, r)
	err := s.pub.Publish(ctx, r)
	s.taken = append(s.taken, err == nil)
	return err
}

// mustPublish offers a record that the publisher has no reason to decline.
func (s *session) mustPublish(r *publisher.Record) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	if err := s.publish(ctx, r); err != nil {
		s.t.Fatalf("publish record %d: %v", r.Token, err)
	}
}

// outcome returns the answer for a record, and whether there is one.
func (s *session) outcome(token uint64) (error, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.outcomes[token]) == 0 {
		return nil, false
	}
	return s.outcomes[token][0], true
}

// await waits for the outcome of r.
func (s *session) await(r *publisher.Record) error {
	s.t.Helper()
	deadline := time.After(s.patience)
	for {
		if err, ok := s.outcome(r.Token); ok {
			return err
		}
		select {
		case <-s.changed:
		case <-deadline:
			s.t.Fatalf("record %d has no outcome after %v", r.Token, s.patience)
		}
	}
}

// awaitAll waits until everything that was taken has its outcome.
func (s *session) awaitAll() {
	s.t.Helper()
	for i, r := range s.offered {
		if s.taken[i] {
			_ = s.await(r)
		}
	}
}

// publishUntilBroken offers records of key until Publish declines one, and
// returns why. What it offers before that must not pass a failed record.
func (s *session) publishUntilBroken(key []byte) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if err := s.publish(ctx, s.record(key)); err != nil {
			if ctx.Err() != nil {
				s.t.Fatalf("publish still takes records %v after a failure", s.patience)
			}
			return err
		}
		<-tick.C
	}
}

// close closes the publisher within timeout.
func (s *session) close(timeout time.Duration) error {
	s.t.Helper()
	return s.awaitClose(s.startClose(timeout), timeout)
}

// startClose closes the publisher in the background and from its end on counts
// answers as late.
func (s *session) startClose(timeout time.Duration) <-chan error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	closed := make(chan error, 1)
	go func() {
		defer cancel()
		err := s.pub.Close(ctx)
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		closed <- err
	}()
	return closed
}

// awaitClose returns what Close returned that was begun with timeout.
func (s *session) awaitClose(closed <-chan error, timeout time.Duration) error {
	s.t.Helper()
	select {
	case err := <-closed:
		return err
	case <-time.After(timeout + s.patience):
		s.t.Fatalf("close has not returned %v after its context ended", s.patience)
		return nil
	}
}

// takenCount is the number of records that were taken.
func (s *session) takenCount() int {
	n := 0
	for _, taken := range s.taken {
		if taken {
			n++
		}
	}
	return n
}

// failed returns the records with an error for an outcome.
func (s *session) failed() map[uint64]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[uint64]error)
	for token, errs := range s.outcomes {
		if len(errs) > 0 && errs[0] != nil {
			m[token] = errs[0]
		}
	}
	return m
}

// class names what an outcome claims.
func class(err error) string {
	var poison *publisher.PoisonError
	var held *publisher.HeldError
	switch {
	case err == nil:
		return "acked"
	case errors.Is(err, publisher.ErrUnknown):
		return "unknown"
	case errors.Is(err, publisher.ErrAborted):
		return "aborted"
	case errors.As(err, &poison):
		return "poison"
	case errors.As(err, &held):
		return "held"
	case errors.Is(err, publisher.ErrClosed):
		return "closed"
	}
	return "failed"
}

func key(i int) []byte { return fmt.Appendf(nil, "key-%d", i) }
