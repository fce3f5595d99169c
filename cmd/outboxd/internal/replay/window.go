package replay

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

// Bounds of what has been given to the publisher and has no outcome.
const (
	maxInFlight      = 16_384
	maxInFlightBytes = 16 << 20
)

// Place is where a row stands in the table.
type Place struct {
	Seq  int64  // 0 in a table without seq
	ID   string // of the event
	Time time.Time
}

// window holds the rows of one attempt that are with the publisher, in order.
// The outcomes of all of them come, at the latest while the publisher is closed.
type window struct {
	mu      sync.Mutex
	items   []item // items[0] is that of token base
	base    uint64
	bytes   int
	stopped chan struct{} // closed by the first failure
	changed chan struct{} // something was settled

	acked uint64 // records
	// start and prefix are the first and the last row of the part that is done
	// without a hole, if there is any.
	start, prefix Place
	any           bool

	cause, behind error // the first failure, and the first that is a consequence
	poison        []Poison
}

type item struct {
	place Place
	size  int
	done  bool
}

// Poison is a row that can never be published as it is.
type Poison struct {
	Place
	Err error // wraps a *publisher.PoisonError
}

func newWindow() *window {
	return &window{base: 1, stopped: make(chan struct{}), changed: make(chan struct{}, 1)}
}

// take returns the token for a record of size bytes. It waits for room until ctx
// ends or something has failed.
func (w *window) take(ctx context.Context, place Place, size int) (uint64, error) {
	err := w.wait(ctx, func() bool {
		return len(w.items) == 0 || len(w.items) < maxInFlight && w.bytes+size <= maxInFlightBytes
	})
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.items = append(w.items, item{place: place, size: size})
	w.bytes += size
	return w.base + uint64(len(w.items)-1), nil
}

// pass notes a row that is not published.
func (w *window) pass(place Place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.items = append(w.items, item{place: place, done: true})
	w.advance()
}

// drained waits until everything is settled.
func (w *window) drained(ctx context.Context) error {
	return w.wait(ctx, func() bool { return len(w.items) == 0 })
}

func (w *window) wait(ctx context.Context, ok func() bool) error {
	for {
		w.mu.Lock()
		ready := ok()
		w.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-w.changed:
		case <-w.stopped:
			return errStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errStopped says that the window knows better why.
var errStopped = errors.New("a record was refused")

// untake gives back the last token: the publisher did not take its record.
func (w *window) untake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.items) - 1
	w.bytes -= w.items[last].size
	w.items = w.items[:last]
}

// done is a publisher.Done.
func (w *window) done(r *publisher.Record, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := r.Token - w.base
	if r.Token < w.base || i >= uint64(len(w.items)) || w.items[i].done {
		return // against the publisher's contract
	}
	it := &w.items[i]
	var poison *publisher.PoisonError
	switch {
	case err == nil:
		w.acked++
		it.done = true
	case errors.Is(err, publisher.ErrAborted), errors.Is(err, publisher.ErrClosed):
		w.behind = first(w.behind, err)
	case errors.As(err, &poison):
		w.poison = append(w.poison, Poison{it.place, err})
		w.cause = first(w.cause, err)
	default:
		w.cause = first(w.cause, err)
	}
	w.advance()
	if err != nil {
		w.stop()
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (w *window) stop() {
	select {
	case <-w.stopped:
	default:
		close(w.stopped)
	}
}

// advance moves the prefix over what is done. The caller holds mu.
func (w *window) advance() {
	n := 0
	for n < len(w.items) && w.items[n].done {
		if !w.any {
			w.start, w.any = w.items[n].place, true
		}
		w.prefix = w.items[n].place
		w.bytes -= w.items[n].size
		n++
	}
	w.items = w.items[n:]
	w.base += uint64(n)
}
