package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/admin"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
)

// process is one outboxd run: a daemon for each pipeline, and for all of them
// one admin listener and one log.
type process struct {
	address string // of the listener, or off
	log     *slog.Logger
	metrics *metrics.Registry
	secrets *redactor
	daemons []*daemon
}

func newProcess(address string, log *slog.Logger, secrets *redactor) *process {
	return &process{address: address, log: log, metrics: metrics.NewRegistry(build()).WithRuntime(), secrets: secrets}
}

func (p *process) add(o *runOptions, pipeline *pipeline) {
	p.daemons = append(p.daemons, newDaemon(o, pipeline, p.log.With("pipeline", pipeline.Pipeline), p.metrics.Pipeline(pipeline.Pipeline)))
}

// run returns nil after ctx has ended and everything is drained. The listener
// lives longest: a probe must see the drain.
func (p *process) run(ctx context.Context) error {
	group, working := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	if err := p.listen(serving, group); err != nil {
		return err
	}
	group.Go(func() error {
		defer stopServing()
		return p.relay(working)
	})
	return group.Wait()
}

// listen opens the admin listener, and serves it in group until serving ends.
func (p *process) listen(serving context.Context, group *errgroup.Group) error {
	if p.address == off {
		return nil
	}
	listener, err := admin.Listen(serving, p.address)
	if err != nil {
		return err
	}
	p.log.Info("listening", "metrics", "http://"+listener.Addr().String()+"/metrics")
	group.Go(func() error { return admin.Serve(serving, listener, p, p.metrics.Handler()) })
	return nil
}

// remindInterval is how often the log tells of a pipeline that has stopped
// while others go on.
const remindInterval = time.Minute

// relay runs all pipelines until ctx ends or the last of them has stopped, and
// returns why the first did. One that stops does not stop the others: to them
// it is like an outage of its broker. With --fail-fast, which asks for a
// supervisor, it does.
func (p *process) relay(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var group, reminders errgroup.Group
	for _, d := range p.daemons {
		group.Go(func() error {
			err := d.run(ctx)
			switch {
			case err == nil || len(p.daemons) == 1:
				return err
			case d.options.failFast:
				stop()
			default:
				reminders.Go(func() error { remind(ctx, remindInterval, func() { d.tellStopped(err) }); return nil })
			}
			return fmt.Errorf("pipeline %s: %w", d.name, err)
		})
	}
	err := group.Wait()
	stop()
	return errors.Join(err, reminders.Wait())
}

// remind calls tell at once and then at every interval until ctx ends.
func remind(ctx context.Context, every time.Duration, tell func()) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		tell()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Live implements admin.Health.
func (p *process) Live() error {
	var dead []error
	for _, d := range p.daemons {
		if err := d.live(); err != nil {
			dead = append(dead, fmt.Errorf("%s: %w", d.name, err))
		}
	}
	return errors.Join(dead...)
}

// Ready implements admin.Health. Reasons are errors of libraries and servers,
// as those in the log are.
func (p *process) Ready() []admin.Readiness {
	list := make([]admin.Readiness, len(p.daemons))
	for i, d := range p.daemons {
		list[i] = d.ready()
		list[i].Reason = p.secrets.text(list[i].Reason)
	}
	return list
}
