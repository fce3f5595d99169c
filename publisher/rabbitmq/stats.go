package rabbitmq

import (
	"sync"
	"sync/atomic"
	"time"
)

// Stats are counts since Open, and the state now.
type Stats struct {
	Published uint64 // acked and in a queue
	Returned  uint64 // unroutable, whatever the policy
	Discarded uint64 // of these, reported as published
	Nacked    uint64 // refused by the broker
	Chained   uint64 // waited for an unconfirmed record of their key
	// HotKeyWaits counts calls of Publish that waited for room while at least
	// half of what the lane held waited for its key: one key, or a few, cap
	// the whole pipeline.
	HotKeyWaits uint64

	InFlight int // sent, not confirmed
	Waiting  int // taken, not sent
	Bytes    int // of both

	// BlockedSince is when the broker blocked the connection (memory or disk
	// alarm); zero when it is not blocked.
	BlockedSince  time.Time
	BlockedReason string
}

// counters are what lanes count.
type counters struct {
	published, returned, discarded, nacked, chained, hotKeyWaits atomic.Uint64
}

// blockage is the broker's connection.blocked.
type blockage struct {
	mu     sync.Mutex
	since  time.Time
	reason string
}

func (b *blockage) set(since time.Time, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since, b.reason = since, reason
}

func (b *blockage) get() (since time.Time, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since, b.reason
}

// Stats returns the counts. It may be called at any time, also after Close.
func (p *Publisher) Stats() Stats {
	s := Stats{
		Published:   p.count.published.Load(),
		Returned:    p.count.returned.Load(),
		Discarded:   p.count.discarded.Load(),
		Nacked:      p.count.nacked.Load(),
		Chained:     p.count.chained.Load(),
		HotKeyWaits: p.count.hotKeyWaits.Load(),
	}
	for _, l := range p.lanes {
		l.mu.Lock()
		s.InFlight += l.tracker.flight.len()
		s.Waiting += l.tracker.unsent()
		s.Bytes += l.tracker.bytes
		l.mu.Unlock()
	}
	s.BlockedSince, s.BlockedReason = p.blocked.get()
	return s
}
