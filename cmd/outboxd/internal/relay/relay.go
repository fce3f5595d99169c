package relay

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

// Bounds and defaults.
const (
	// DefaultDrainTimeout is below the 30 s that Kubernetes gives a process.
	DefaultDrainTimeout = 25 * time.Second
	// publisherCloseTimeout is how long acks are collected of what is on its way
	// when the rest is given up.
	publisherCloseTimeout = 2 * time.Second
	// streamCloseTimeout bounds the last write of the witness and the last
	// status.
	streamCloseTimeout = 3 * time.Second
	// openTimeout bounds the opening of a publisher: meanwhile the slot is held
	// and nothing is read.
	openTimeout = 30 * time.Second

	// idleTime is how long a session without a broker follows the slot before
	// the broker is tried again.
	idleTime = 3 * time.Second

	// Pauses between sessions, before jitter.
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	latePause    = 30 * time.Second
	standbyPause = time.Second

	// DefaultAckLimit is how long the oldest event in flight may wait for its
	// ack before the relay calls itself stalled.
	DefaultAckLimit = 30 * time.Second
	watchInterval   = time.Second
	// deadAfter is how long the watch may not have ticked before the process
	// calls itself dead: it is scheduled and takes the locks that everything
	// else takes, and waits for nothing outside.
	deadAfter = 15 * time.Second

	maxCounters = 1024
)

// Source is the read side: a *cdc.Reader behind FromReader, or a script.
type Source interface {
	// Open begins a session. Its error is a *cdc.Error.
	Open(ctx context.Context) (Stream, error)
	// Ack says that the event of token is durably published. It must return
	// soon and be safe for concurrent use, also between sessions.
	Ack(token uint64)
	// Stats must return soon and be safe for concurrent use.
	Stats() cdc.Stats
}

// Stream is one session of a Source. Its methods are those of cdc.Stream.
type Stream interface {
	Run(ctx context.Context, h cdc.Handler) error
	Guard() error
	Lost() <-chan struct{}
	Close(ctx context.Context) error
}

// Relay publishes the events of one pipeline. Set the fields before Run; the
// zero value of what is not marked required is a documented default.
type Relay struct {
	Source        Source                                                                              // required
	OpenPublisher func(context.Context, publisher.Done, publisher.Guard) (publisher.Publisher, error) // required
	Format        *record.Format                                                                      // required
	// Table is the event table, schema.name, and Columns its columns. Empty:
	// emitted events only.
	Table   string
	Columns Columns
	// DrainTimeout bounds how long a stop waits for what was taken to be
	// published. Zero: DefaultDrainTimeout.
	DrainTimeout time.Duration
	// FailFast ends Run with the first fault instead of trying again.
	FailFast bool
	// AckLimit is the longest that an event may wait for its ack while the
	// relay calls itself ready. Zero: DefaultAckLimit.
	AckLimit time.Duration
	// MaxInFlight and MaxInFlightBytes bound what has been given to the
	// publisher and has no outcome. Zero: DefaultMaxInFlight and
	// DefaultMaxInFlightBytes.
	MaxInFlight, MaxInFlightBytes int
	// Parking is where poison events go. Nil: the relay stops in front of them.
	Parking *Parking
	Metrics *metrics.Metrics // required
	Logger  *slog.Logger     // required

	once   sync.Once
	state  *state
	ticks  atomic.Int64           // when the watch last ticked, Unix nanoseconds
	pages  atomic.Pointer[pages]  // of the last session
	parker atomic.Pointer[parker] // of the last session that had one

	// parkedLines limits the log's lines on parked events. The handler's.
	parkedLines limiter

	// Run's.
	condemned map[cdc.Position]*PoisonEvent
	// releaseAt is when released events may be published again, after the world
	// was in the way of one. aside are the targets of those: what goes elsewhere
	// comes first.
	releaseAt time.Time
	aside     []string
}

// Run publishes until ctx ends, then drains and returns nil. Its error is a
// *StopError. It must be called once.
func (r *Relay) Run(ctx context.Context) error {
	r.init()
	defer r.state.stop(Stopped)
	// The watch goes on during the drain: a process that drains is alive.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(watching) })
	defer watch.Wait()
	defer stop()

	for {
		s := r.newSession()
		failure, err := s.run(ctx)
		if ctx.Err() != nil {
			r.Metrics.Session("stop")
			return nil
		}
		if errors.Is(err, errRelease) {
			r.Metrics.Session("release")
			continue
		}
		fault := classify(err, r.state.worked())
		r.Metrics.Session(fault.Code)
		r.remember(s.found)
		if fault.Code == codePoisonPending && !s.stops() {
			continue // to park it
		}
		if fault.Class == Fatal || fault.Class == Poison || r.FailFast && fault.Class != Standby {
			return &StopError{Fault: fault, Err: err}
		}
		attempts := 0
		if fault.Class == Standby {
			// By our turn the events may be published, or their limit raised.
			r.condemned = nil
			r.parker.Store(nil)
			r.state.standby(fault, err)
		} else {
			attempts = r.state.failed(fault, err, failure)
			if failure != nil && failure.released {
				r.releaseAt = time.Now().Add(latePause)
				r.aside = append(r.aside, failure.target)
			}
		}
		if !sleep(ctx, pause(fault.Class, attempts)) {
			return nil
		}
	}
}

// remember condemns what the last session found, and forgets what does not come
// again: it is published or parked, or has another position in a new epoch.
func (r *Relay) remember(found map[cdc.Position]*PoisonEvent) {
	stats := r.Source.Stats()
	for p := range r.condemned {
		if p.Epoch != stats.Epoch || p.Commit < stats.Acked {
			delete(r.condemned, p)
		}
	}
	if r.condemned == nil {
		r.condemned = map[cdc.Position]*PoisonEvent{}
	}
	maps.Copy(r.condemned, found)
}

func (r *Relay) newSession() *session {
	p := newPages(cmp.Or(r.MaxInFlight, DefaultMaxInFlight), cmp.Or(r.MaxInFlightBytes, DefaultMaxInFlightBytes))
	r.pages.Store(p)
	return &session{
		relay: r, state: r.state, pages: p, condemned: r.condemned,
		plans:    map[*cdc.Relation]*plan{},
		counters: map[string]prometheus.Counter{},
	}
}

// pause grows from firstPause to longestPause with the attempts, and is
// anything between half of that and all of it: relays that lost the same
// server must not come back together.
func pause(class Class, attempts int) time.Duration {
	d := longestPause
	switch class {
	case Standby:
		return standbyPause + rand.N(standbyPause)
	case RetryLate:
		return latePause + rand.N(latePause/2)
	}
	if n := max(attempts-1, 0); n < 6 { // 100 ms << 6 is past the longest
		d = min(firstPause<<n, longestPause)
	}
	return d/2 + rand.N(d/2)
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *Relay) init() {
	r.once.Do(func() { r.state = newState(r.Logger) })
}
