package demo

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/internal/checker"
)

// ledger notes what every context consumed, and how late. It is the demo's
// witness, no part of the shop.
type ledger struct {
	mu    sync.Mutex
	pages map[string]*page // by context
}

// page is what one context consumed, in the order in which it did.
type page struct {
	deliveries []checker.Delivered
	distinct   map[string]bool
	latencies  []time.Duration
}

func newLedger(list []station) *ledger {
	l := &ledger{pages: map[string]*page{}}
	for _, s := range list {
		l.pages[s.name] = &page{distinct: map[string]bool{}}
	}
	return l
}

// note returns a handler that notes each event which next has handled.
func (l *ledger) note(name string, next inbound.Handler) inbound.Handler {
	p := l.pages[name]
	return func(ctx context.Context, e inbound.Event) error {
		if err := next(ctx, e); err != nil {
			return err
		}
		// The time is that of the transaction's begin: the commit is a little
		// later, so that the latency shown is never better than it was.
		latency := time.Since(e.Time)
		l.mu.Lock()
		defer l.mu.Unlock()
		p.deliveries = append(p.deliveries, checker.Delivered{
			ID: e.ID, Domain: domain(e.AggregateType, e.Subject), Place: e.Place, Position: e.Position, Sum: sha256.Sum256(e.Payload),
		})
		p.distinct[e.ID] = true
		p.latencies = append(p.latencies, latency)
		return nil
	}
}

// domain names what is kept in order: the events of one aggregate.
func domain(aggregateType, aggregateID string) string { return aggregateType + "/" + aggregateID }

// distinct is how many events the context has consumed, each counted once.
func (l *ledger) distinct(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pages[name].distinct)
}

// total is how many records all contexts have consumed.
func (l *ledger) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, p := range l.pages {
		n += len(p.deliveries)
	}
	return n
}

// deliveries is what the context has consumed.
func (l *ledger) deliveries(name string) []checker.Delivered {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.pages[name].deliveries)
}

// latency returns the median and the 99th percentile of the context's last
// consumed events, at most last of them.
func (l *ledger) latency(name string, last int) (p50, p99 time.Duration) {
	l.mu.Lock()
	all := l.pages[name].latencies
	some := slices.Clone(all[max(0, len(all)-last):])
	l.mu.Unlock()
	if len(some) == 0 {
		return 0, 0
	}
	slices.Sort(some)
	return some[len(some)/2], some[len(some)*99/100]
}
