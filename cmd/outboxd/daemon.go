package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/admin"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/publisher"
)

// daemon is one pipeline at work: the relay, its admin listener and the
// rotation of the event table.
type daemon struct {
	options *runOptions
	*pipeline
	log     *slog.Logger
	metrics *metrics.Metrics
	relay   *relay.Relay
}

func newDaemon(o *runOptions, p *pipeline, log *slog.Logger) (*daemon, error) {
	reader, err := cdc.NewReader(cdc.Config{
		Database: o.database, Pipeline: p.Pipeline, Slot: p.Slot, Publication: p.Publication,
		Table: p.Table(), ConfigHash: p.hash, Logger: log,
		CheckColumns: func(published []string) error { return relay.Columns(p.columns).Check(p.Table(), published) },
	})
	if err != nil {
		return nil, err
	}
	d := &daemon{options: o, pipeline: p, log: log, metrics: metrics.New(build()).WithRuntime()}
	d.relay = &relay.Relay{
		Source: relay.FromReader(reader),
		OpenPublisher: func(ctx context.Context, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			return p.broker.open(ctx, log, done, guard)
		},
		Format: p.format, Table: p.Table(), Columns: relay.Columns(p.columns),
		DrainTimeout: o.drainTimeout, FailFast: o.failFast,
		Metrics: d.metrics, Logger: log,
	}
	d.metrics.Observe(d.snapshot)
	return d, nil
}

func (d *daemon) snapshot() metrics.Snapshot {
	s := d.relay.Snapshot()
	s.Broker = d.broker.stats()
	s.SkippedHeaders = d.format.SkippedHeaders()
	return s
}

// run returns nil after ctx has ended and everything is drained. The listener
// lives longest: a probe must see the drain.
func (d *daemon) run(ctx context.Context) error {
	d.log.Info("starting", "version", build().Version, "pipeline", d.Pipeline, "slot", d.Slot,
		"publication", d.Publication, "table", d.Table(), "broker", d.broker.address)
	group, working := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	if err := d.listen(serving, group); err != nil {
		return err
	}
	group.Go(func() error {
		defer stopServing()
		if err := d.prepare(working); err != nil {
			return err
		}
		group.Go(func() error { return d.rotate(working) })
		return d.named(d.relay.Run(working))
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// listen opens the admin listener, and serves it in group until serving ends.
func (d *daemon) listen(serving context.Context, group *errgroup.Group) error {
	if d.options.metrics == off {
		return nil
	}
	listener, err := admin.Listen(serving, d.options.metrics)
	if err != nil {
		return err
	}
	d.log.Info("listening", "metrics", "http://"+listener.Addr().String()+"/metrics")
	group.Go(func() error {
		return admin.Serve(serving, listener, health{d.relay}, d.metrics.Handler())
	})
	return nil
}

// setupPause lies between two attempts to set up a database that cannot be
// reached.
const setupPause = 2 * time.Second

// prepare does what outboxd setup does, if asked to. Like the relay it waits
// for a database that cannot be reached.
func (d *daemon) prepare(ctx context.Context) error {
	if !d.options.setup {
		return nil
	}
	options := setup.Options{
		Database: d.options.database, Pipeline: d.Pipeline, Slot: d.Slot, Publication: d.Publication, Table: d.Table(),
		Columns: d.columns, Retention: d.options.retention,
	}
	out := &lineLogger{log: func(line string) { d.log.Info("setup", "did", line) }}
	for attempt := 1; ; attempt++ {
		err := setup.Apply(ctx, options, out)
		var named *cdc.Error
		if d.options.failFast || !errors.As(err, &named) || named.Code != cdc.CodeUnreachable {
			return err
		}
		if attempt == 1 {
			d.log.Warn("setup waits for the database", "error", err.Error())
		}
		select {
		case <-time.After(setupPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// named completes the command in the fix of what stopped the relay.
func (d *daemon) named(err error) error {
	var stop *relay.StopError
	if errors.As(err, &stop) {
		stop.Fault.Fix = d.options.complete(stop.Fault.Fix, d.Pipeline)
	}
	return err
}

// health answers the probes for a relay.
type health struct{ relay *relay.Relay }

// Live implements admin.Health.
func (h health) Live() error { return h.relay.Live() }

// Ready implements admin.Health.
func (h health) Ready() admin.Readiness {
	s := h.relay.Status()
	return admin.Readiness{Ready: s.Ready, State: string(s.Phase), Reason: s.Reason, Target: s.Target, Since: s.Since}
}
