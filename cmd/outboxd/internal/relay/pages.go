package relay

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outboxd/outboxd/cdc"
)

const (
	pageItems = 64
	// pageBytes closes a page early, so that a page of large events does not
	// hold their share of the budget until the last of 64 is acked.
	pageBytes = 64 << 10
	// pageAge closes a page early when events are rare: oldest may then be
	// wrong by this much and no more.
	pageAge = time.Second

	// DefaultMaxInFlight bounds the events in flight, DefaultMaxInFlightBytes
	// their bytes (a single larger event passes alone).
	DefaultMaxInFlight      = 256 * pageItems
	DefaultMaxInFlightBytes = 16 << 20
)

// item is what must be known of a record until its outcome comes.
type item struct {
	delivery cdc.Delivery
	commit   time.Time
	size     int
	acked    prometheus.Counter // of the destination
	batch    *batch             // of a released event; nil: the event comes from the slot
	// waiting is true from Publish to the outcome. Whoever turns it false owns
	// the item until release.
	waiting atomic.Bool
}

// page is a number of items that are used and freed together. One page is open
// and filled by the goroutine of the handler; the others wait for outcomes.
type page struct {
	// left counts the outcomes that are still to come, plus hold while the
	// page is open. Whoever brings it to 0 frees the page: nobody else can, and
	// nobody looks at its items any more.
	left  atomic.Int32
	since atomic.Int64 // when its first item was taken, in Unix nanoseconds

	used, bytes int // the handler's
}

// hold keeps an open page from being freed while all its items are acked. It
// is larger than any number of items.
const hold = 1 << 20

// pages is a fixed number of items. Tokens are indexes into it, so that a done
// callback finds its item without a lock or a map.
type pages struct {
	items []item
	pages []page
	free  chan int // pages freed by outcomes
	limit int      // bytes

	events, bytes atomic.Int64 // in flight, for metrics

	// The handler's.
	open  int   // index of the open page; -1: none
	spare []int // free pages
	held  int   // bytes of the pages that are not free
}

// newPages has room for about maxEvents (rounded up to pages) and maxBytes.
func newPages(maxEvents, maxBytes int) *pages {
	n := max((maxEvents+pageItems-1)/pageItems, 2)
	p := &pages{
		items: make([]item, n*pageItems),
		pages: make([]page, n),
		free:  make(chan int, n),
		limit: maxBytes,
		open:  -1,
		spare: make([]int, 0, n),
	}
	for i := range n {
		p.spare = append(p.spare, i)
	}
	return p
}

// take returns the token of an item for a record of size bytes. It waits for
// room until ctx ends.
func (p *pages) take(ctx context.Context, size int) (uint64, *item, error) {
	now := time.Now()
	// The budget counts whole pages: the bytes of a page are given back
	// together, when the last of its outcomes has come.
	if p.open >= 0 && (p.full(&p.pages[p.open], now) || !p.fits(size)) {
		p.close()
	}
	for p.open < 0 {
		if len(p.spare) > 0 && p.fits(size) {
			p.begin(now)
			break
		}
		select {
		case i := <-p.free:
			p.reclaim(i)
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		}
	}
	g := &p.pages[p.open]
	token := p.open*pageItems + g.used
	it := &p.items[token]
	it.size = size
	it.waiting.Store(true)
	g.used++
	g.bytes += size
	p.held += size
	g.left.Add(1)
	p.events.Add(1)
	p.bytes.Add(int64(size))
	return uint64(token), it, nil
}

// fits says whether size more bytes may be in flight. What is larger than the
// limit waits until nothing else is.
func (p *pages) fits(size int) bool { return p.held+size <= p.limit || p.held == 0 }

// full says whether the open page must be closed before the next item. A page
// all of whose items are acked begins again at its start instead.
func (p *pages) full(g *page, now time.Time) bool {
	if g.left.Load() == hold {
		p.held -= g.bytes
		g.used, g.bytes = 0, 0
		g.since.Store(now.UnixNano())
		return false
	}
	return g.used == pageItems || g.bytes >= pageBytes || now.UnixNano()-g.since.Load() > int64(pageAge)
}

func (p *pages) begin(now time.Time) {
	p.open = p.spare[len(p.spare)-1]
	p.spare = p.spare[:len(p.spare)-1]
	g := &p.pages[p.open]
	g.since.Store(now.UnixNano())
	g.left.Store(hold)
}

func (p *pages) close() {
	i := p.open
	p.open = -1
	p.drop(i, hold)
}

// drop takes n off the page's count. The channel has room for every page, so
// that a publisher's goroutine never waits here.
func (p *pages) drop(i int, n int32) {
	if p.pages[i].left.Add(-n) == 0 {
		p.free <- i
	}
}

// wait waits until every item has had its outcome, ctx ends or enough is
// closed. It is the handler's, and nothing is taken after it.
func (p *pages) wait(ctx context.Context, enough <-chan struct{}) {
	if p.open >= 0 {
		p.close()
	}
	for len(p.spare) < len(p.pages) {
		select {
		case i := <-p.free:
			p.reclaim(i)
		case <-ctx.Done():
			return
		case <-enough:
			return
		}
	}
}

func (p *pages) reclaim(i int) {
	g := &p.pages[i]
	p.held -= g.bytes
	g.used, g.bytes = 0, 0
	p.spare = append(p.spare, i)
}

// outcome returns the item of a token, which the caller then owns until
// release; false when no outcome is due for it.
func (p *pages) outcome(token uint64) (*item, bool) {
	if token >= uint64(len(p.items)) {
		return nil, false
	}
	it := &p.items[token]
	return it, it.waiting.CompareAndSwap(true, false)
}

// release gives the item of a token back.
func (p *pages) release(token uint64) {
	p.events.Add(-1)
	p.bytes.Add(-int64(p.items[token].size))
	p.drop(int(token)/pageItems, 1)
}

// oldest returns when the oldest item in flight was taken, to within pageAge;
// zero when none is. Safe for concurrent use.
func (p *pages) oldest() time.Time {
	first := int64(0)
	for i := range p.pages {
		g := &p.pages[i]
		since := g.since.Load()
		if g.left.Load()&(hold-1) == 0 {
			continue
		}
		if first == 0 || since < first {
			first = since
		}
	}
	if first == 0 {
		return time.Time{}
	}
	return time.Unix(0, first)
}
