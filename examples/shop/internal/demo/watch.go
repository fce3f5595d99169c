package demo

import (
	"context"
	"errors"
	"time"
)

const (
	redraw   = 250 * time.Millisecond // on a terminal
	newLine  = time.Second            // elsewhere
	lastSeen = 1000                   // events that the shown latency is of
)

// watched runs acts one after the other while the screen shows how things
// stand, and once more at their end.
func (d *demo) watched(ctx context.Context, acts ...func(context.Context) error) error {
	opened := time.Now()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watch := make(chan error, 1)
	go func() { watch <- d.watch(watching, opened) }()
	var err error
	for _, act := range acts {
		if err = act(ctx); err != nil {
			break
		}
	}
	stop()
	if err = errors.Join(err, <-watch); err != nil {
		return err
	}
	err = d.show(ctx, opened)
	d.screen.leave()
	return err
}

// watch shows how things stand until ctx ends.
func (d *demo) watch(ctx context.Context, opened time.Time) error {
	every := newLine
	if d.screen.live {
		every = redraw
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := d.show(ctx, opened); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// show asks everybody how far they are, and draws it.
func (d *demo) show(ctx context.Context, opened time.Time) error {
	written, err := count(ctx, d.events)
	if err != nil {
		return err
	}
	shot := snapshot{
		elapsed: time.Since(opened), duration: d.Duration,
		placed: d.buyers.placed.Load(), refused: d.buyers.refused.Load(),
		relays: d.relay.states(),
	}
	for _, s := range d.stations {
		r := row{station: s, consumed: d.ledger.distinct(s.name)}
		if s.publishes != "" {
			r.written, r.relayed = written[s.publishes], shot.relays[0].of(s.publishes)
		}
		r.p50, r.p99 = d.ledger.latency(s.name, lastSeen)
		shot.rows = append(shot.rows, r)
	}
	d.screen.draw(shot)
	return nil
}
