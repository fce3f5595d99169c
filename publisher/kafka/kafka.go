// Package kafka publishes records to a Kafka cluster.
//
// # How the order survives a refusal
//
// A producer that runs free has several batches of a partition on their way.
// When the broker refuses the first, the second is written all the same, and a
// later record of a key stands before an earlier one. Here at most one batch of
// a partition is on its way: records are collected in windows that hold no more
// than one batch for any partition, and a window is sent when all answers to
// the one before it are in. When the broker refuses a batch nothing stands
// behind it, and the batch is split until the culprit is alone.
//
// A window waits for its slowest partition, so partitions are spread over
// lanes: each has a client of its own, one window on its way and one that
// fills. A lane that is idle sends at once, with one record; a busy one finds
// thousands when it comes back. There is no timer.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

// OpenTimeout bounds the first contact with the cluster.
const OpenTimeout = 10 * time.Second

// Publisher is a publisher.Publisher to one cluster. It must not be copied.
type Publisher struct {
	config Config
	done   publisher.Done
	topics topics
	lanes  []*lane

	// broken is canceled by the first failure, its cause. Lanes then send
	// nothing more.
	broken context.Context
	fail   context.CancelCauseFunc
	// severed is canceled when what is on its way must be given up as well:
	// the guard refused, or Close has no time left.
	severed context.Context
	sever   context.CancelFunc
	// closing is canceled when Close is called.
	closing context.Context
	close   context.CancelFunc

	// doomed is the failure of a record that was taken and will not be sent.
	// Only Publish uses it.
	doomed error

	running sync.WaitGroup // lanes
	watcher sync.WaitGroup
	stats   counters
}

var (
	_ publisher.Publisher = (*Publisher)(nil)
	_ publisher.Inspector = (*Publisher)(nil)
)

// Open connects to the cluster of cfg and returns a publisher that reports to
// done and asks guard before each write. The error is a *publisher.ConfigError
// for what another try does not mend, and otherwise names the addresses.
func Open(ctx context.Context, cfg Config, done publisher.Done, guard publisher.Guard) (*Publisher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := cfg.checkFiles(); err != nil {
		return nil, err
	}
	p := &Publisher{config: cfg, done: done}
	p.broken, p.fail = context.WithCancelCause(context.Background())
	p.severed, p.sever = context.WithCancel(context.Background())
	p.closing, p.close = context.WithCancel(context.Background())

	opts, dial := cfg.options(), cfg.dialer(p.guarded(guard))
	admin, err := kgo.NewClient(append(opts, kgo.Dialer(dial))...)
	if err != nil {
		return nil, &publisher.ConfigError{Code: "config", Detail: "kafka client", Err: err}
	}
	p.topics = topics{config: cfg, admin: kadm.NewClient(admin), stats: &p.stats, known: make(map[string]*topic)}
	pingCtx, cancel := context.WithTimeout(ctx, OpenTimeout)
	defer cancel()
	if err := admin.Ping(pingCtx); err != nil {
		admin.Close()
		return nil, fmt.Errorf("reach kafka at %s: %w", strings.Join(cfg.Brokers, ","), classifyOpen(err))
	}
	if err := p.start(opts, dial); err != nil {
		admin.Close()
		return nil, err
	}
	return p, nil
}

// start makes the lanes.
func (p *Publisher) start(opts []kgo.Opt, dial dialer) error {
	for range p.config.Lanes {
		l := newLane(p)
		client, err := kgo.NewClient(slices.Concat(opts, l.options(dial))...)
		if err != nil {
			for _, other := range p.lanes {
				other.client.Close()
			}
			return &publisher.ConfigError{Code: "config", Detail: "kafka client", Err: err}
		}
		l.client = client
		p.lanes = append(p.lanes, l)
	}
	for _, l := range p.lanes {
		p.running.Go(l.run)
	}
	p.watcher.Go(func() {
		<-p.severed.Done()
		p.closeClients()
	})
	return nil
}

// guarded breaks the publisher when guard refuses. The client would try again
// on a new connection for ever: a guard that came back would let records out
// whose right to be published had ended.
func (p *Publisher) guarded(guard publisher.Guard) publisher.Guard {
	if guard == nil {
		return nil
	}
	return func() error {
		err := guard()
		if err == nil {
			err = p.severed.Err()
		}
		if err != nil {
			p.fail(fmt.Errorf("guard refuses to publish: %w", err))
			p.sever()
		}
		return err
	}
}

// Publish implements publisher.Publisher. A topic that is new to p is looked
// up in the cluster first.
func (p *Publisher) Publish(ctx context.Context, r *publisher.Record) error {
	if err := p.declined(); err != nil {
		return err
	}
	t, err := p.lookup(ctx, r.Topic)
	var mine error // what fails this record
	switch {
	case t != nil:
		mine = t.check(r)
	case isOutcome(err):
		mine = err
		t = &topic{name: r.Topic}
	default:
		return err
	}
	partition := t.partition(r)
	l := p.lanes[(t.offset+int(partition))%len(p.lanes)]
	err = l.add(ctx, r, t, partition, mine)
	if err == nil {
		p.doomed = mine
	}
	return err
}

// Inspect implements publisher.Inspector: it tells of records that are larger
// than their topic allows, and of topics whose names are not legal.
func (p *Publisher) Inspect(ctx context.Context, r *publisher.Record) error {
	t, err := p.lookup(ctx, r.Topic)
	if t != nil {
		return t.check(r)
	}
	var poison *publisher.PoisonError
	if errors.As(err, &poison) {
		return poison
	}
	return nil // Publish will meet with it
}

// declined returns why p takes nothing, if so.
func (p *Publisher) declined() error {
	if p.closing.Err() != nil {
		return publisher.ErrClosed
	}
	cause := context.Cause(p.broken)
	if cause == nil {
		// The record may still wait in its lane. Meanwhile its topic could
		// appear, and the next record would find it and pass.
		cause = p.doomed
	}
	if cause != nil {
		return fmt.Errorf("publisher is broken: %w", cause)
	}
	return nil
}

// lookup finds the topic within ctx, and until p is closed or broken. A failure
// that is not the fault of the topic breaks p.
func (p *Publisher) lookup(ctx context.Context, name string) (*topic, error) {
	if t := p.topics.get(name); t != nil {
		return t, nil
	}
	lookupCtx, cancel := context.WithTimeout(ctx, LookupTimeout)
	defer cancel()
	defer context.AfterFunc(p.closing, cancel)()
	defer context.AfterFunc(p.broken, cancel)()
	t, err := p.topics.lookup(lookupCtx, name)
	if err == nil || isOutcome(err) {
		return t, err
	}
	if declined := p.declined(); declined != nil {
		return nil, declined
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("look up topic %q: %w", name, context.Cause(ctx))
	}
	p.fail(err)
	return nil, err
}

// isOutcome says whether err is about a record and not about the cluster.
func isOutcome(err error) bool {
	var poison *publisher.PoisonError
	var held *publisher.HeldError
	return errors.As(err, &poison) || errors.As(err, &held)
}

// Close implements publisher.Publisher. On its way is the window of each lane
// that was handed to the client; what the broker refuses of it, or what the
// client would send again, is given up. When ctx ends, the clients are closed
// under the rest: a context would not bound a batch that was sent.
func (p *Publisher) Close(ctx context.Context) error {
	// In this order: what is aborted because p is being closed asks why p is
	// broken.
	p.fail(publisher.ErrClosed)
	p.close()
	for _, l := range p.lanes {
		l.shut()
	}
	stop := context.AfterFunc(ctx, p.sever)
	p.running.Wait()
	stop()
	p.sever()
	p.watcher.Wait()
	if n := p.stats.givenUp.Load(); n > 0 {
		return fmt.Errorf("%w: %d records given up", publisher.ErrClosed, n)
	}
	return nil
}

// closeClients closes all clients side by side, which fails what they hold.
func (p *Publisher) closeClients() {
	var all sync.WaitGroup
	all.Go(p.topics.admin.Close)
	for _, l := range p.lanes {
		all.Go(l.closeClient)
	}
	all.Wait()
}

// Stats are counters since Open.
type Stats struct {
	// Windows is how many windows were sent, Records and Bytes what was acked.
	Windows, Records, Bytes uint64
	// Grown is how many topics have more partitions than when they were first
	// used. Keys stay where they are until the next Open.
	Grown uint64
	// Held is the target of the HeldError that broke the publisher, or empty.
	Held string
}

type counters struct {
	windows, records, bytes, grown atomic.Uint64
	givenUp                        atomic.Uint64 // by Close
	held                           atomic.Pointer[string]
}

// Stats returns the counters. It may be called at any time.
func (p *Publisher) Stats() Stats {
	s := Stats{
		Windows: p.stats.windows.Load(),
		Records: p.stats.records.Load(),
		Bytes:   p.stats.bytes.Load(),
		Grown:   p.stats.grown.Load(),
	}
	if held := p.stats.held.Load(); held != nil {
		s.Held = *held
	}
	return s
}
