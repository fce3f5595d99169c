package kafka_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// session is a publisher and its outcomes.
type session struct {
	t   testing.TB
	pub *kafka.Publisher
	n   uint64

	mu       sync.Mutex
	outcomes map[uint64]error
	changed  chan struct{}
}

func openSession(t testing.TB, cfg kafka.Config) *session {
	t.Helper()
	s := &session{t: t, outcomes: make(map[uint64]error), changed: make(chan struct{}, 1)}
	pub, err := kafka.Open(t.Context(), cfg, func(r *publisher.Record, err error) {
		s.mu.Lock()
		s.outcomes[r.Token] = err
		s.mu.Unlock()
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.pub = pub
	t.Cleanup(s.close)
	return s
}

func (s *session) publish(topic, key string, change func(*publisher.Record)) *publisher.Record {
	s.t.Helper()
	s.n++
	r := &publisher.Record{Topic: topic, Key: []byte(key), Value: []byte(strconv.FormatUint(s.n, 10)), Token: s.n}
	if change != nil {
		change(r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.pub.Publish(ctx, r); err != nil {
		s.t.Fatalf("publish: %v", err)
	}
	return r
}

func (s *session) wait(r *publisher.Record) error {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		err, ok := s.outcomes[r.Token]
		s.mu.Unlock()
		if ok {
			return err
		}
		select {
		case <-s.changed:
		case <-deadline:
			s.t.Fatalf("record %d has no outcome", r.Token)
		}
	}
}

// finish waits for the outcome of everything published, and closes.
func (s *session) finish() {
	s.t.Helper()
	for n := range s.n {
		_ = s.wait(&publisher.Record{Token: n + 1})
	}
	s.close()
}

func (s *session) acked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, err := range s.outcomes {
		if err == nil {
			n++
		}
	}
	return n
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_ = s.pub.Close(ctx)
}

func wantPoison(t testing.TB, err error, reason string, cause error) {
	t.Helper()
	var poison *publisher.PoisonError
	if !errors.As(err, &poison) || poison.Reason != reason || !errors.Is(err, cause) {
		t.Errorf("outcome %v, want poison %s by %v", err, reason, cause)
	}
}

func wantHeld(t testing.TB, err error, reason, target string) *publisher.HeldError {
	t.Helper()
	var held *publisher.HeldError
	if !errors.As(err, &held) || held.Reason != reason || held.Target != target {
		t.Fatalf("outcome %v, want held %s %q", err, reason, target)
	}
	return held
}
