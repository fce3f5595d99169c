package relay_test

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
)

// yard is the table of parked events in memory, with the rules of a parked.Lot.
// What is marked is worked off once the witness is past it.
type yard struct {
	slot *script
	// opened and write answer each Open and each Park. Nil: no error.
	opened, write func() error
	batch         int           // how many rows are released at once
	lag           time.Duration // how long the witness may be behind the slot

	mu      sync.Mutex
	witness cdc.LSN
	written time.Time           // when the witness was
	rows    map[string]*yardRow // by position
	history []string            // what was parked and released or discarded, in order
}

type yardRow struct {
	parked.Event
	state    parked.State
	attempts int
}

func newYard(slot *script) *yard {
	return &yard{slot: slot, batch: 500, rows: map[string]*yardRow{}}
}

// park makes the relay of b park what it cannot publish.
func (b *bench) park(policy relay.Policy) *yard {
	y := newYard(b.slot)
	b.Parking = &relay.Parking{Policy: policy, Open: y.open}
	b.slot.published = func(id string) bool { return b.has(id) || y.has(id) }
	return y
}

func (y *yard) open(context.Context) (relay.Lot, *parked.Contents, error) {
	if y.opened != nil {
		if err := y.opened(); err != nil {
			return nil, nil, err
		}
	}
	acked := y.slot.Stats().Acked
	y.mu.Lock()
	defer y.mu.Unlock()
	c := &parked.Contents{Domains: map[parked.Domain]cdc.Position{}, Repeated: map[cdc.Position]string{}}
	for _, r := range y.sorted() {
		if r.state == parked.Discarded {
			continue
		}
		if r.Position.Commit >= acked && r.Position.Epoch != y.slot.epoch { // a failover
			delete(y.rows, r.Position.String())
			r.Position.Epoch = y.slot.epoch
			y.rows[r.Position.String()] = r
		}
		c.Events++
		c.Bytes += int64(r.Size())
		if r.state == parked.Retry && r.MarkedAt.After(c.MarkedAt) {
			c.MarkedAt = r.MarkedAt
		}
		if _, later := c.Domains[r.Domain]; !later && r.Domain != (parked.Domain{}) {
			c.Domains[r.Domain] = r.Position
		}
		if r.Position.Commit >= acked {
			c.Repeated[r.Position] = string(r.ID)
		}
	}
	return y, c, nil
}

// Park implements relay.Lot.
func (y *yard) Park(_ context.Context, events []parked.Event) error {
	if y.write != nil {
		if err := y.write(); err != nil {
			return err
		}
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, e := range events {
		if y.rows[e.Position.String()] != nil {
			y.slot.t.Errorf("event %s was parked twice", e.ID)
		}
		r := &yardRow{Event: e, state: parked.Waiting}
		if e.Reason == parked.Behind && !y.holdsBefore(&e) {
			y.slot.t.Errorf("event %s was parked without a cause", e.ID)
		}
		for _, last := range y.sorted() {
			if e.Reason == parked.Behind && last.Domain == e.Domain && last.state != parked.Discarded {
				r.state = parked.Waiting
				if last.state == parked.Retry {
					r.state = parked.Retry
				}
			}
		}
		y.rows[e.Position.String()] = r
		y.history = append(y.history, "+"+string(e.ID))
	}
	return nil
}

// holdsBefore says whether an earlier event of e's domain is parked. The caller
// holds mu.
func (y *yard) holdsBefore(e *parked.Event) bool {
	return slices.ContainsFunc(y.sorted(), func(r *yardRow) bool {
		return r.Domain == e.Domain && r.state != parked.Discarded && r.Position.String() < e.Position.String()
	})
}

// sorted are the rows in the order of their positions. The caller holds mu.
func (y *yard) sorted() []*yardRow {
	var rows []*yardRow
	for _, key := range slices.Sorted(maps.Keys(y.rows)) {
		rows = append(rows, y.rows[key])
	}
	return rows
}

// Marked implements relay.Lot.
func (y *yard) Marked(_ context.Context, passed cdc.Position, aside []string) (m parked.Marks, err error) {
	acked := y.slot.Stats().Acked
	y.mu.Lock()
	defer y.mu.Unlock()
	if time.Since(y.written) >= y.lag {
		y.witness, y.written = acked, time.Now()
	}
	blocked := map[parked.Domain]bool{}
	for _, r := range y.sorted() {
		ripe := r.Position.Commit < y.witness
		switch {
		case r.state == parked.Discard && ripe:
			r.state = parked.Discarded
			y.history = append(y.history, "x"+string(r.ID))
			y.took(&m.Discarded, r)
		case r.state == parked.Retry && (ripe || r.Reason == parked.Behind && r.Position.String() <= passed.String()) && !blocked[r.Domain] && !slices.Contains(aside, r.Target()) && len(m.Retries) < y.batch:
			m.Retries = append(m.Retries, r.Event)
		case r.state != parked.Discarded && r.Domain != (parked.Domain{}):
			blocked[r.Domain] = true
		}
	}
	m.More = len(m.Retries) > 0
	return m, nil
}

// took adds a row that is not parked any more to c. The caller holds mu.
func (y *yard) took(c *parked.Change, r *yardRow) {
	c.Events++
	c.Bytes += int64(r.Size())
	for _, other := range y.rows {
		if other.Domain == r.Domain && other.state != parked.Discarded {
			return
		}
	}
	c.Freed = append(c.Freed, r.Domain)
}

// Settle implements relay.Lot.
func (y *yard) Settle(_ context.Context, published []cdc.Position, refused []parked.Refusal) (c parked.Change, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	slices.SortFunc(published, func(a, b cdc.Position) int { return cmp.Compare(a.String(), b.String()) })
	for _, p := range published {
		r := y.rows[p.String()]
		y.inherit(r.Domain)
		delete(y.rows, p.String())
		y.history = append(y.history, "-"+string(r.ID))
		y.took(&c, r)
	}
	for _, f := range refused {
		r := y.rows[f.Position.String()]
		r.state, r.Reason, r.Detail = parked.Waiting, f.Reason, f.Detail
		r.attempts++
	}
	return c, nil
}

// inherit marks what is only behind a published event. The caller holds mu.
func (y *yard) inherit(d parked.Domain) {
	for _, r := range y.sorted() {
		switch {
		case r.Domain != d || d == (parked.Domain{}):
		case r.state == parked.Waiting && r.Reason == parked.Behind:
			r.state = parked.Retry
		case r.state == parked.Waiting || r.state == parked.Discard:
			return
		}
	}
}

// Close implements relay.Lot.
func (y *yard) Close() {}

// mark marks the rows of ids, all without one.
func (y *yard) mark(as parked.State, ids ...string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, r := range y.rows {
		if r.state != parked.Discarded && (len(ids) == 0 || slices.Contains(ids, string(r.ID))) {
			r.state, r.MarkedAt = as, time.Now()
		}
	}
}

func (y *yard) has(id string) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, r := range y.rows {
		if string(r.ID) == id {
			return true
		}
	}
	return false
}

// parked is what is parked: ids with reasons, in order.
func (y *yard) parked() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var all []string
	for _, r := range y.sorted() {
		if r.state != parked.Discarded {
			all = append(all, string(r.ID)+":"+r.Reason)
		}
	}
	return strings.Join(all, " ")
}
