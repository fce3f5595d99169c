package publishertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// DefaultWindow is how many records a publisher of a Fake holds.
	DefaultWindow = 64
	// DefaultLanes is over how many lanes a Fake spreads the keys.
	DefaultLanes = 4
)

// Fake is a broker in memory. Its answers are scripted; what it stored stays
// when publishers come and go. The zero value acks everything at once. Set the
// exported fields before the first Open.
type Fake struct {
	// Script answers for each record, when its turn in its lane has come. It
	// is called from several goroutines. Nil acks.
	Script func(r *publisher.Record) Answer
	// Limit is what the publisher knows of each record before it is sent: its
	// Inspect returns that, and a record of which it is not nil fails with it in
	// its turn. Nil knows nothing.
	Limit func(r *publisher.Record) error
	// Window is how many records a publisher holds before Publish blocks.
	// Zero is DefaultWindow.
	Window int
	// Lanes is how many records are answered side by side, each of another
	// key. Zero is DefaultLanes; 1 answers in the order of Publish.
	Lanes int

	mu      sync.Mutex
	stored  []publisher.Record
	stalled chan struct{}
	open    map[*fakePublisher]struct{}
}

// Answer is what the broker does with one record. The zero value stores and
// acks it.
type Answer struct {
	// After delays the answer.
	After time.Duration
	// Until holds the answer until the channel is closed. Nil does not.
	Until <-chan struct{}
	// Err fails the record, which breaks the publisher.
	Err error
	// Stored stores a record that fails, as a lost ack does: Err should then
	// wrap publisher.ErrUnknown.
	Stored bool
}

// Open returns a publisher to f.
func (f *Fake) Open(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
	window, lanes := f.Window, f.Lanes
	if window == 0 {
		window = DefaultWindow
	}
	if lanes == 0 {
		lanes = DefaultLanes
	}
	p := &fakePublisher{
		fake: f, done: done, guard: guard,
		room: make(chan struct{}, window),
		seed: maphash.MakeSeed(), closed: make(chan struct{}),
	}
	p.broken, p.fail = context.WithCancelCause(context.Background())
	for range lanes {
		lane := make(chan *publisher.Record, window) // a send never blocks: room comes first
		p.lanes = append(p.lanes, lane)
		p.running.Go(func() { p.run(lane) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = make(map[*fakePublisher]struct{})
	}
	f.open[p] = struct{}{}
	return p, nil
}

// Stored returns a copy of what the broker holds, in the order of arrival.
func (f *Fake) Stored() []publisher.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stored)
}

// Stall keeps records from arriving until resume is called, once or more.
func (f *Fake) Stall() (resume func()) {
	stalled := make(chan struct{})
	f.mu.Lock()
	f.stalled = stalled
	f.mu.Unlock()
	return sync.OnceFunc(func() {
		f.mu.Lock()
		f.stalled = nil
		f.mu.Unlock()
		close(stalled)
	})
}

// Cut breaks every publisher that is open, with publisher.ErrUnknown for what
// waits for an answer.
func (f *Fake) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.open {
		p.fail(fmt.Errorf("connection cut: %w", publisher.ErrUnknown))
	}
}

func (f *Fake) store(r *publisher.Record) {
	c := *r
	c.Key, c.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	c.Headers = slices.Clone(r.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = bytes.Clone(c.Headers[i].Value)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = append(f.stored, c)
}

// answer asks the script and returns the stall that r has to sit out, if any.
func (f *Fake) answer(r *publisher.Record) (Answer, <-chan struct{}) {
	var a Answer
	if f.Script != nil {
		a = f.Script(r)
	}
	if err := f.inspect(r); err != nil {
		a = Answer{Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return a, f.stalled
}

func (f *Fake) inspect(r *publisher.Record) error {
	if f.Limit == nil {
		return nil
	}
	return f.Limit(r)
}

type fakePublisher struct {
	fake    *Fake
	done    publisher.Done
	guard   publisher.Guard
	seed    maphash.Seed
	room    chan struct{}
	lanes   []chan *publisher.Record
	running sync.WaitGroup
	givenUp atomic.Int64 // by Close

	broken context.Context // its cause is the first failure
	fail   context.CancelCauseFunc
	closed chan struct{} // nothing more is taken, or sent

	mu sync.Mutex // held while closed is closed, and while a lane gets a record
}

func (p *fakePublisher) Publish(ctx context.Context, r *publisher.Record) error {
	select {
	case p.room <- struct{}{}:
	case <-p.broken.Done():
	case <-p.closed:
	case <-ctx.Done():
		return fmt.Errorf("wait for room: %w", context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() {
		return publisher.ErrClosed
	}
	if p.broken.Err() != nil {
		return fmt.Errorf("publisher broken: %w", context.Cause(p.broken))
	}
	p.lanes[maphash.Bytes(p.seed, r.Key)%uint64(len(p.lanes))] <- r
	return nil
}

// Inspect implements publisher.Inspector.
func (p *fakePublisher) Inspect(_ context.Context, r *publisher.Record) error {
	return p.fake.inspect(r)
}

func (p *fakePublisher) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.isClosed() {
		close(p.closed)
		for _, lane := range p.lanes {
			close(lane)
		}
	}
	p.mu.Unlock()
	idle := make(chan struct{})
	go func() {
		p.running.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	p.fail(publisher.ErrClosed) // wakes the lanes
	<-idle
	p.fake.mu.Lock()
	delete(p.fake.open, p)
	p.fake.mu.Unlock()
	if n := p.givenUp.Load(); n > 0 {
		return fmt.Errorf("%w: %d records given up", publisher.ErrClosed, n)
	}
	return nil
}

func (p *fakePublisher) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// run answers the records of one lane, strictly one after the other: nothing
// of a domain can pass a record that failed.
func (p *fakePublisher) run(lane <-chan *publisher.Record) {
	for r := range lane {
		err := p.deliver(r)
		switch {
		case errors.Is(err, publisher.ErrClosed):
			p.givenUp.Add(1)
		case err != nil:
			p.fail(err)
		}
		p.done(r, err)
		<-p.room
	}
}

func (p *fakePublisher) deliver(r *publisher.Record) error {
	if p.broken.Err() != nil {
		return p.abandon(nil)
	}
	if p.isClosed() {
		return publisher.ErrClosed
	}
	a, stalled := p.fake.answer(r)
	if err := p.wait(a, stalled); err != nil {
		return p.abandon(err)
	}
	if p.guard != nil {
		if err := p.guard(); err != nil {
			return fmt.Errorf("write refused: %w", err)
		}
	}
	if a.Err == nil || a.Stored {
		p.fake.store(r)
	}
	return a.Err
}

// wait sits out what the answer asks for. It returns an error when the
// publisher broke meanwhile.
func (p *fakePublisher) wait(a Answer, stalled <-chan struct{}) error {
	if a.After > 0 {
		timer := time.NewTimer(a.After)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.broken.Done():
			return publisher.ErrUnknown
		}
	}
	for _, until := range []<-chan struct{}{a.Until, stalled} {
		if until == nil {
			continue
		}
		select {
		case <-until:
		case <-p.broken.Done():
			return publisher.ErrUnknown
		}
	}
	return nil
}

// abandon is the outcome of a record behind the first failure. ErrClosed and
// ErrUnknown are passed on; any other cause is the culprit's own.
func (p *fakePublisher) abandon(unknown error) error {
	cause := context.Cause(p.broken)
	if errors.Is(cause, publisher.ErrClosed) {
		return errors.Join(publisher.ErrClosed, unknown)
	}
	if errors.Is(cause, publisher.ErrUnknown) && unknown != nil {
		return fmt.Errorf("%w: %w", publisher.ErrAborted, cause)
	}
	return fmt.Errorf("%w: %v", publisher.ErrAborted, cause)
}
