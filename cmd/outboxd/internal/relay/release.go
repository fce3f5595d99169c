package relay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/publisher"
)

// markInterval is how often marks are looked for.
const markInterval = time.Second

// errRelease ends a session for the sake of the next, which begins with the
// release of what was refused: a publisher may go by limits of the broker that it
// has read when it was opened.
var errRelease = errors.New("parked events are released with a new session")

// round works off marks, a batch at most, and says when the next one is due: soon
// if there may be more, but not before the handler had its share of the time. That
// is the smaller one: what it does with the keys that are released is to park
// more of them.
// The turn is the caller's.
func (p *parker) round(reading context.Context) (pause time.Duration, err error) {
	if reading.Err() != nil {
		return markInterval, nil
	}
	if p.events.Load() == 0 {
		p.unmarked()
		return markInterval, nil
	}
	began := time.Now()
	// What waits must be in the table before a domain is found to be free.
	if err := p.write(); err != nil {
		return 0, err
	}
	marks, err := p.lot.Marked(p.ctx, p.passed, p.s.relay.aside)
	if err != nil {
		return 0, err
	}
	p.remove(marks.Discarded)
	p.s.relay.Metrics.ParkedDiscarded(marks.Discarded.Events)
	switch {
	case len(marks.Retries) == 0 && len(p.s.relay.aside) > 0:
		p.s.relay.aside = nil // it is their turn
	case len(marks.Retries) == 0:
		p.unmarked()
	case began.Before(p.s.relay.releaseAt):
		return markInterval, nil
	case slices.ContainsFunc(marks.Retries, p.needsNewPublisher):
		p.s.cancel(errRelease)
		return markInterval, nil
	default:
		err = p.release(reading, marks.Retries)
	}
	if marks.More {
		return time.Since(began) / 4, err
	}
	return markInterval, err
}

// unmarked takes note that nobody wants anything to be released. The turn is the
// caller's.
func (p *parker) unmarked() {
	p.s.relay.aside = nil
	p.s.state.unmarked()
}

// needsNewPublisher says that an event was refused, and was marked after the
// publisher had been opened: the limit may have been raised in between.
func (p *parker) needsNewPublisher(e parked.Event) bool {
	return e.Reason != parked.Behind && e.MarkedAt.After(p.markedAt)
}

// remove takes note of what is not parked any more.
func (p *parker) remove(c parked.Change) {
	for _, d := range c.Freed {
		delete(p.domains, d)
	}
	p.count(-c.Events, -c.Bytes)
}

// release publishes events in their order and settles what became of them. It
// returns when every outcome has come, at the latest after the publisher has
// been closed.
func (p *parker) release(reading context.Context, events []parked.Event) error {
	b := newBatch(events)
	kept := map[parked.Domain]bool{} // what is behind a refused event is not published
	for i := range events {
		e := &events[i]
		if kept[e.Domain] && e.Domain != (parked.Domain{}) {
			continue
		}
		r, err := p.again(e)
		if err == nil {
			err = p.s.inspect(reading, r)
		}
		e.Payload, e.Headers = nil, nil // the record has its own copy
		if err != nil {
			kept[e.Domain] = true
			b.refuse(e.Position, err)
			continue
		}
		b.sent()
		if err := p.s.send(reading, r, cdc.Delivery{Position: e.Position}, e.CommitTime, b); err != nil {
			b.unsent()
			break // the session ends
		}
	}
	select {
	case <-b.complete():
	case <-p.closed:
	}
	return p.settle(b)
}

// again makes the record of a parked event.
func (p *parker) again(e *parked.Event) (*publisher.Record, error) {
	if e.Raw {
		return nil, &publisher.PoisonError{Reason: "bad_record", Detail: "the event could not be decoded"}
	}
	ev := e.Event
	ev.Retried = true
	return p.s.relay.Format.Record(&ev, &p.s.arena)
}

func (p *parker) settle(b *batch) error {
	b.mu.Lock()
	published, refused := b.acked, b.refused
	b.mu.Unlock()
	if len(published)+len(refused) == 0 {
		return nil
	}
	change, err := p.lot.Settle(p.ctx, published, refused)
	if err != nil {
		return err
	}
	p.remove(change)
	p.s.relay.Metrics.ParkedReleased(len(published))
	if len(refused) > 0 {
		first := refused[0]
		p.s.relay.Logger.Warn("parked events cannot be published this time either", "events", len(refused),
			"position", first.Position.String(), "reason", first.Reason, "detail", first.Detail)
	}
	return nil
}

// batch is a number of released events. Safe for concurrent use.
type batch struct {
	events []parked.Event

	mu      sync.Mutex
	open    int           // outcomes that are to come, and one until complete is called
	done    chan struct{} // closed with the last of them
	acked   []cdc.Position
	refused []parked.Refusal
}

func newBatch(events []parked.Event) *batch {
	return &batch{events: events, open: 1, done: make(chan struct{})}
}

// target is that of the event at p.
func (b *batch) target(p cdc.Position) string {
	i := slices.IndexFunc(b.events, func(e parked.Event) bool { return e.Position == p })
	return b.events[i].Target()
}

func (b *batch) add(n int) {
	if b.open += n; b.open == 0 {
		close(b.done)
	}
}

// sent says that one more outcome will come.
func (b *batch) sent() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(1)
}

// unsent takes that back.
func (b *batch) unsent() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(-1)
}

// complete says that nothing more is sent. The channel is closed when every
// outcome has come.
func (b *batch) complete() <-chan struct{} {
	b.unsent()
	return b.done
}

// published is the outcome of a record that the broker has.
func (b *batch) published(p cdc.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked = append(b.acked, p)
	b.add(-1)
}

// failed is any other outcome: poison, or nil when it says nothing of the event.
func (b *batch) failed(p cdc.Position, poison *publisher.PoisonError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if poison != nil {
		b.refused = append(b.refused, refusal(p, poison))
	}
	b.add(-1)
}

// refuse notes an event of which no record can be made.
func (b *batch) refuse(p cdc.Position, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = append(b.refused, refusal(p, err))
}

func refusal(p cdc.Position, err error) parked.Refusal {
	reason, detail := poisonText(err)
	return parked.Refusal{Position: p, Reason: reason, Detail: detail}
}
