package publishertest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/outboxd/outboxd/publisher"
)

// checkRefusal has the k-th of n records of a key refused, amid other keys.
func checkRefusal(t testing.TB, b Backend) {
	const n, others = 12, 7
	for _, k := range []int{0, 1, 5, n - 1} {
		target := b(t)
		if target.Refuse == nil {
			return
		}
		s := open(t, target, nil)
		var culprit *publisher.Record
		for i := range n * (others + 1) {
			r := s.record(key(i % (others + 1)))
			if i == k*(others+1) {
				target.Refuse(r)
				culprit = r
			}
			if s.publish(t.Context(), r) != nil {
				break
			}
		}
		s.judgeRefusal(fmt.Sprintf("k=%d", k), culprit)
	}
}

// checkRefusalBurst has the refused record stand in the middle of as many
// records of its key as the publisher takes at once.
func checkRefusalBurst(t testing.TB, b Backend) {
	const n, k = 3000, 700
	target := b(t)
	if target.Refuse == nil {
		return
	}
	s := open(t, target, nil)
	var culprit *publisher.Record
	for i := range n {
		r := s.record(key(0))
		if i == k {
			target.Refuse(r)
			culprit = r
		}
		if s.publish(t.Context(), r) != nil {
			break
		}
	}
	s.judgeRefusal("burst", culprit)
}

// judgeRefusal goes on publishing behind the culprit until the publisher
// declines, and then compares.
func (s *session) judgeRefusal(name string, culprit *publisher.Record) {
	s.t.Helper()
	declined := s.publishUntilBroken(culprit.Key)
	err := s.await(culprit)
	c := class(err)
	if c != "poison" && c != "held" {
		s.t.Errorf("%s: the refused record %d is reported as %s, want poison or held: %v", name, culprit.Token, c, err)
	}
	if got := class(declined); got != c {
		s.t.Errorf("%s: publish declines with %q, want an error that wraps the first failure (%s)", name, declined, c)
	}
	_ = s.close(s.patience)
	for token, err := range s.failed() {
		switch r := s.offered[token]; {
		case r == culprit:
		case string(r.Key) == string(culprit.Key) && token < culprit.Token:
			s.t.Errorf("%s: record %d stands before the refused one and failed: %v", name, token, err)
		case !errors.Is(err, publisher.ErrAborted):
			s.t.Errorf("%s: record %d is given up with %q, want an error that wraps ErrAborted", name, token, err)
		}
	}
	s.judge()
}

// checkInspection has doomed records looked at amid others: that breaks nothing.
// Published all the same they fail as was said.
func checkInspection(t testing.TB, b Backend) {
	target := b(t)
	s := open(t, target, nil)
	inspector, can := s.pub.(publisher.Inspector)
	if can != (target.Doom != nil) {
		t.Fatalf("the publisher can inspect: %v; the suite knows a doomed record: %v", can, target.Doom != nil)
	}
	if !can {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	for i := range 20 {
		r := s.record(key(i % 2))
		if err := inspector.Inspect(ctx, r); err != nil {
			t.Errorf("a record that the broker takes is said to be doomed: %v", err)
		}
		s.mustPublish(r)
		doomed := s.record(key(i % 2))
		target.Doom(doomed)
		if c := class(inspector.Inspect(ctx, doomed)); c != "poison" {
			t.Errorf("the doomed record is %s, want poison", c)
		}
	}
	s.awaitAll()
	culprit := s.record(key(0))
	target.Doom(culprit)
	s.mustPublish(culprit)
	s.judgeRefusal("doomed", culprit)
}

// checkBroken waits for the refusal before it goes on, and then opens the next
// publisher on the same destination.
func checkBroken(t testing.TB, b Backend) {
	target := b(t)
	if target.Refuse == nil {
		return
	}
	s := open(t, target, nil)
	s.mustPublish(s.record(key(1)))
	culprit := s.record(key(0))
	target.Refuse(culprit)
	s.mustPublish(culprit)
	if err := s.await(culprit); err == nil {
		t.Errorf("the refused record was acked")
	}
	_ = s.publishUntilBroken(key(0))
	for i := range 20 {
		if err := s.publish(context.Background(), s.record(key(i))); err == nil {
			t.Fatalf("publish takes records again after it declined one")
		}
	}
	_ = s.close(s.patience)
	s.judge()

	next := open(t, target, nil)
	for i := range 20 {
		next.mustPublish(next.record(key(i % 2)))
	}
	next.mustCloseAcked()
	s.judge()
}
