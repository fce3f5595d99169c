package main

import (
	"sync"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
)

// tally adds up what the publishers of all sessions count. A publisher is
// closed before the next is opened, so its counts are final by then.
type tally[P any] struct {
	mu     sync.Mutex
	last   P
	opened bool
	before metrics.Broker // the counts of those before last
	count  func(P) metrics.Broker
}

// newTally returns a tally of what count says of a publisher.
func newTally[P any](count func(P) metrics.Broker) *tally[P] { return &tally[P]{count: count} }

// follow takes what a backend's Open returned, and returns it.
func (t *tally[P]) follow(p P, err error) (P, error) {
	if err != nil {
		return p, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.opened {
		s := t.count(t.last)
		t.before.Discarded += s.Discarded
		t.before.HotKeyWaits += s.HotKeyWaits
	}
	t.last, t.opened = p, true
	return p, nil
}

// sum is the state of the last publisher, with the counts of all.
func (t *tally[P]) sum() metrics.Broker {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.opened {
		return metrics.Broker{}
	}
	s := t.count(t.last)
	s.Discarded += t.before.Discarded
	s.HotKeyWaits += t.before.HotKeyWaits
	return s
}
