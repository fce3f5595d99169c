package main

import (
	"context"
	"errors"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
)

const (
	rotateInterval = time.Minute
	// rotateLook is how often to look whether this relay leads and the minute
	// is over.
	rotateLook = time.Second
	// rotateTimeout bounds one rotation, its connection included: it reads a
	// whole partition before it empties it.
	rotateTimeout = 10 * time.Minute
)

// rotation is the housekeeping of the event table.
type rotation struct {
	*daemon
	relay   *relay.Relay
	rotator *retention.Rotator
	checked bool   // the table can hold the retention asked for, or none was
	failed  string // the last error, to log it once
}

// rotate empties expired partitions of the event table once a minute, while
// this relay leads, on a connection that lives for that moment. What fails is
// logged when it changes and tried again, and never stops the relay; what gets
// nowhere for long is logged at a growing pace. The one
// exception is found the first time: a retention that the table cannot hold.
func (d *daemon) rotate(ctx context.Context, working *relay.Relay) error {
	r := &rotation{daemon: d, relay: working, rotator: retention.NewRotator(d.Table()), checked: d.options.retention == 0}
	ticker := time.NewTicker(rotateLook)
	defer ticker.Stop()
	var due time.Time
	for {
		phase := r.relay.Status().Phase
		if phase == relay.StandingBy {
			r.backlog.forget()
		}
		if now := time.Now(); now.After(due) && phase == relay.Streaming {
			due = now.Add(rotateInterval)
			result, err := r.step(ctx)
			var refused *cdc.Error
			if !r.checked && errors.As(err, &refused) && refused.Code == cdc.CodeConfig {
				return err
			}
			if ctx.Err() == nil {
				r.tell(result, err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *rotation) step(ctx context.Context) (result retention.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, rotateTimeout)
	defer cancel()
	conn, err := cdc.Connect(ctx, r.options.database, "outboxd "+r.Pipeline+" retention")
	if err != nil {
		return result, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if !r.checked {
		if err := retention.Check(ctx, conn, r.Table(), r.options.retention); err != nil {
			return result, err
		}
		r.checked = true
	}
	return r.rotator.Rotate(ctx, conn)
}

// tell counts a step and logs what there is to know: an error when it is
// another than the last.
func (r *rotation) tell(result retention.Result, err error) {
	if err != nil {
		r.metrics.Rotation("error")
		if err.Error() != r.failed {
			r.failed = err.Error()
			r.log.Warn("retention could not be looked after", "error", r.failed)
		}
		return
	}
	r.failed = ""
	r.metrics.Rotation(resultOf(result.Outcome))
	if result.Outcome == retention.Truncated {
		r.log.Info("emptied an expired partition", "partition", result.Partition, "rows", result.Rows)
	}
	if waits, tell := r.backlog.note(time.Now(), result.Outcome); tell {
		r.log.Warn("an expired partition cannot be emptied, and the table grows", "partition", result.Partition,
			"waits", waits.Round(time.Minute), "why", obstacle(result.Outcome))
	}
}

// resultOf is an outcome as the metric has it.
func resultOf(outcome retention.Outcome) string {
	if outcome == retention.Behind || outcome == retention.Busy {
		return string(outcome)
	}
	return "ok"
}
