package relay

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
)

// watch looks once a second how far the source is and whether the session that
// is up moves, and is the tick that Live looks for.
func (r *Relay) watch(ctx context.Context) {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	for {
		stats := r.Source.Stats()
		r.state.progress(stats)
		r.state.stall(r.stalled(time.Now(), stats))
		r.ticks.Store(time.Now().UnixNano())
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// stalled says why nothing moves although a session is up; "" when it does.
// The broker comes first: while it takes nothing, nothing is read either, so
// that the silence of the server is only a consequence.
func (r *Relay) stalled(now time.Time, stats cdc.Stats) string {
	if p := r.pages.Load(); p != nil {
		limit := cmp.Or(r.AckLimit, DefaultAckLimit)
		if oldest := p.oldest(); !oldest.IsZero() && now.Sub(oldest) > limit {
			return fmt.Sprintf("the broker has not acked the oldest event in flight for more than %s", limit)
		}
	}
	if stats.Streaming && stats.SilenceLimit > 0 && now.Sub(stats.LastReceived) > stats.SilenceLimit {
		return fmt.Sprintf("nothing has come from the walsender for more than %s", stats.SilenceLimit)
	}
	if stats.Streaming && stats.HeldBack != "" && now.Sub(stats.HeldBackAt) <= stats.SilenceLimit {
		return "the server holds events back: " + stats.HeldBack
	}
	return ""
}

// Live returns an error when the relay's own loop has stopped turning. It says
// nothing of the database or the broker.
func (r *Relay) Live() error {
	r.init()
	ticked := r.ticks.Load()
	if silent := time.Since(time.Unix(0, ticked)); ticked != 0 && silent > deadAfter {
		return fmt.Errorf("the relay's loop has not turned for %s", silent.Round(time.Second))
	}
	return nil
}

// Status is what /readyz tells. A slot that keeps more WAL than it may is told
// of where nothing worse is; events flow all the same.
func (r *Relay) Status() Status {
	r.init()
	status := r.state.status()
	if stats := r.Source.Stats(); status.Reason == "" && stats.Streaming && stats.Slot.Beyond() {
		status.Reason = fmt.Sprintf("the slot keeps %d bytes of WAL, and may keep %d", stats.Slot.RetainedBytes, stats.Slot.RetainedLimit)
	}
	return status
}

// Snapshot is what /metrics reads at each scrape.
func (r *Relay) Snapshot() metrics.Snapshot {
	r.init()
	stats := r.Source.Stats()
	snapshot := metrics.Snapshot{Streaming: stats.Streaming, Slot: stats.Slot}
	if p := r.pages.Load(); p != nil {
		snapshot.InFlightEvents, snapshot.InFlightBytes = p.events.Load(), p.bytes.Load()
	}
	if p := r.parker.Load(); p != nil {
		snapshot.ParkedEvents, snapshot.ParkedBytes, snapshot.ParkedKeys = p.events.Load(), p.bytes.Load(), p.keys.Load()
	}
	oldest := stats.OldestUnacked
	r.state.mu.Lock()
	snapshot.Leader = r.state.leader
	if r.state.phase == Holding {
		snapshot.HeldReason, snapshot.HeldTarget = r.state.fault.Code, r.state.fault.Target
	}
	if waiting := r.state.oldest; !waiting.IsZero() && (oldest.IsZero() || waiting.Before(oldest)) {
		oldest = waiting
	}
	r.state.mu.Unlock()
	if !oldest.IsZero() {
		snapshot.OldestUnpublished = time.Since(oldest)
	}
	return snapshot
}
