package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/admin"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/publisher"
)

// daemon is one pipeline at work: the relay and the rotation of the event
// table.
type daemon struct {
	options   *runOptions
	*pipeline // its names, but for the first, are run's to read and change
	name      string
	log       *slog.Logger
	metrics   *metrics.Metrics
	backlog   backlog // of the rotation

	mu    sync.Mutex
	relay *relay.Relay    // nil until the pipeline's names are known
	state admin.Readiness // while there is no relay, and after it has stopped
	err   error           // why it has stopped
}

func newDaemon(o *runOptions, p *pipeline, log *slog.Logger, m *metrics.Metrics) *daemon {
	d := &daemon{options: o, pipeline: p, name: p.Pipeline, log: log, metrics: m}
	d.enter(string(relay.Starting), "")
	d.metrics.Observe(d.snapshot)
	return d
}

// run returns nil after ctx has ended and everything is drained, else why only
// an operator can help.
func (d *daemon) run(ctx context.Context) error {
	err := d.work(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	err = d.options.mended(offerSkip(err, d.Pipeline), d.Identity)
	if err != nil {
		d.enter(string(relay.Stopped), reason(err))
		d.mu.Lock()
		d.err = err
		d.mu.Unlock()
	}
	return err
}

func (d *daemon) work(ctx context.Context) error {
	if err := d.patiently(ctx, d.prepare); err != nil {
		return err
	}
	r, err := d.newRelay()
	if err != nil {
		return err
	}
	d.log.Info("starting", "version", build().Version, "slot", d.Slot, "publication", d.Publication, "table", d.Table(), "broker", d.broker.address)
	d.mu.Lock()
	d.relay = r
	d.mu.Unlock()
	group, working := errgroup.WithContext(ctx)
	group.Go(func() error { return d.rotate(working, r) })
	group.Go(func() error { return r.Run(working) })
	return group.Wait()
}

// prepare learns the names that were not given and does what outboxd setup
// does, if asked to.
func (d *daemon) prepare(ctx context.Context) error {
	var err error
	d.Identity, err = setup.Recall(ctx, d.options.database, d.Identity, d.options.given)
	if err != nil || !d.options.setup {
		return err
	}
	return setup.Apply(ctx, setup.Options{
		Database: d.options.database, Pipeline: d.Pipeline, Slot: d.Slot, Publication: d.Publication, Table: d.Table(),
		Columns: d.columns, Retention: d.options.retention,
	}, &lineLogger{log: func(line string) { d.log.Info("setup", "did", line) }})
}

// preparePause lies between two attempts to prepare in a database that cannot
// be reached.
const preparePause = 2 * time.Second

// patiently waits, as the relay does, for a database that cannot be reached.
func (d *daemon) patiently(ctx context.Context, do func(context.Context) error) error {
	for {
		err := do(ctx)
		var named *cdc.Error
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.options.failFast || !errors.As(err, &named) || named.Code != cdc.CodeUnreachable {
			return err
		}
		if d.enter(string(relay.Retrying), err.Error()) {
			d.log.Warn(string(relay.Retrying), "code", string(named.Code), "error", err.Error(), "fix", named.Fix)
		}
		select {
		case <-time.After(preparePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *daemon) newRelay() (*relay.Relay, error) {
	reader, err := cdc.NewReader(cdc.Config{
		Database: d.options.database, Pipeline: d.Pipeline, Slot: d.Slot, Publication: d.Publication,
		Table: d.Table(), ConfigHash: d.configHash(), Logger: d.log,
		MaxRetainedWAL: int64(d.options.maxRetainedWAL), DropSlot: d.options.maxRetainedWALAction == dropSlot,
		CheckColumns: func(published []string) error { return relay.Columns(d.columns).Check(d.Table(), published) },
	})
	if err != nil {
		return nil, err
	}
	lots := parked.Store{Database: d.options.database, Pipeline: d.Pipeline, Holder: reader.Holder()}
	return &relay.Relay{
		Source: relay.FromReader(reader),
		OpenPublisher: func(ctx context.Context, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			return d.broker.open(ctx, d.log, done, guard)
		},
		Format: d.format, Table: d.Table(), Columns: relay.Columns(d.columns),
		DrainTimeout: d.options.drainTimeout, FailFast: d.options.failFast,
		Parking: &relay.Parking{
			Open:      func(ctx context.Context) (relay.Lot, *parked.Contents, error) { return openLot(ctx, lots) },
			Policy:    relay.Policy(d.options.poison),
			MaxEvents: d.options.maxParkedEvents, MaxBytes: int64(d.options.maxParkedBytes),
		},
		Metrics: d.metrics, Logger: d.log,
	}, nil
}

// openLot keeps a nil pointer out of the interface.
func openLot(ctx context.Context, s parked.Store) (relay.Lot, *parked.Contents, error) {
	lot, contents, err := s.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	return lot, contents, nil
}

// enter changes the state that is told in place of a relay's, and says whether
// it was another before.
func (d *daemon) enter(state, reason string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := d.state.State != state
	if changed {
		d.state = admin.Readiness{Pipeline: d.name, State: state, Since: time.Now()}
	}
	d.state.Reason = reason
	return changed
}

// look returns the relay, nil when there is none that works, and what is to be
// told then.
func (d *daemon) look() (working *relay.Relay, state admin.Readiness, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.state, d.err
	}
	return d.relay, d.state, nil
}

// ready is what /readyz tells of the pipeline.
func (d *daemon) ready() admin.Readiness {
	r, state, _ := d.look()
	if r == nil {
		return state
	}
	s := r.Status()
	return admin.Readiness{Pipeline: d.name, Ready: s.Ready, State: string(s.Phase), Reason: s.Reason, Target: s.Target, Since: s.Since}
}

// live returns an error when the relay's loop does not turn. One that has
// stopped is not dead: a restart would not mend it.
func (d *daemon) live() error {
	if r, _, _ := d.look(); r != nil {
		return r.Live()
	}
	return nil
}

func (d *daemon) snapshot() metrics.Snapshot {
	r, _, stopped := d.look()
	s := metrics.Snapshot{Stopped: stopped != nil}
	if r != nil {
		s = r.Snapshot()
		s.RetentionBacklog = d.backlog.age(time.Now())
	}
	s.Broker = d.broker.stats()
	s.SkippedHeaders = d.format.SkippedHeaders()
	return s
}

// tellStopped tells the log of a pipeline that has stopped while others go on.
func (d *daemon) tellStopped(err error) {
	f := explain(err)
	d.log.Error("this pipeline has stopped, the others go on; mend it, then restart the process",
		"code", f.code, "error", err.Error(), "fix", f.fix, "exit", f.exit)
}

// reason is an error for /readyz.
func reason(err error) string {
	f := explain(err)
	text := f.named(err)
	if f.fix != "" {
		text += "; fix: " + f.fix
	}
	return text
}
