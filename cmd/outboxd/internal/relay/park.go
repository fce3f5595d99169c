package relay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/publisher"
)

// Policy says what becomes of an event that can never be published. What is
// parked already keeps its order under each of them.
type Policy string

const (
	// ParkKey parks it, and every later event of its key behind it.
	ParkKey Policy = "park-key"
	// Park parks it alone; its successors go on.
	Park Policy = "park"
	// Stop stops in front of it.
	Stop Policy = "stop"
)

// Bounds of what is parked.
const (
	DefaultMaxParkedEvents = 100_000
	DefaultMaxParkedBytes  = 256 << 20
	// maxUnwritten bounds the bytes that wait to be written (a single larger
	// event passes alone).
	maxUnwritten = 1 << 20
	// lastWriteTimeout bounds the last write of a session.
	lastWriteTimeout = 3 * time.Second

	codeParkedLimit = "parked_limit"
)

// Parking is where poison events go.
type Parking struct {
	// Open opens the parked events for one session. It is called when the
	// pipeline's witness is ours.
	Open   func(ctx context.Context) (Lot, *parked.Contents, error) // required
	Policy Policy                                                   // required
	// MaxEvents and MaxBytes bound what is parked; at the limit the pipeline
	// waits. Zero: DefaultMaxParkedEvents and DefaultMaxParkedBytes.
	MaxEvents int
	MaxBytes  int64
}

// Lot is a *parked.Lot, or a script. Its methods are called one at a time.
type Lot interface {
	Park(ctx context.Context, events []parked.Event) error
	Marked(ctx context.Context, passed cdc.Position, aside []string) (parked.Marks, error)
	Settle(ctx context.Context, published []cdc.Position, refused []parked.Refusal) (parked.Change, error)
	Close()
}

// parker parks the events of a session and releases what was marked for it. Its
// goroutine alone talks to the lot: it writes what the handler gives it and acks
// that when it is durable, and now and then works off the marks.
//
// Who holds the turn decides what is published. The handler takes it for each
// message; while parked events are released the goroutine has it, so that no
// later event of a key can slip in between.
type parker struct {
	s                   *session
	lot                 Lot
	policy              Policy
	maxEvents, maxBytes int64

	turn     chan struct{} // full while somebody has the turn
	wake     chan struct{} // something waits to be written
	room     chan struct{} // something was written
	closed   chan struct{} // the publisher has been closed
	finished chan struct{} // the goroutine has ended
	// ctx is that of queries: it outlasts the reading, not the drain.
	ctx   context.Context
	abort context.CancelFunc

	events, bytes, keys atomic.Int64 // what is parked, or waits to be

	// Whose turn it is.
	domains  map[parked.Domain]cdc.Position // that have a parked event, with the first
	repeated map[cdc.Position]string        // parked before this session, by position: ids
	passed   cdc.Position                   // of the last event that came
	markedAt time.Time                      // of the last mark that there was when the session began
	scratch  []byte

	mu        sync.Mutex
	unwritten []parked.Event
	tokens    []uint64 // of the unwritten
	size      int      // of the unwritten
}

// newParker opens the lot. The turn is the goroutine's until it has looked for
// marks once.
func newParker(ctx context.Context, s *session) (*parker, error) {
	config := s.relay.Parking
	lot, contents, err := config.Open(ctx)
	if err != nil {
		return nil, err
	}
	p := &parker{
		s: s, lot: lot, policy: config.Policy,
		maxEvents: int64(cmp.Or(config.MaxEvents, DefaultMaxParkedEvents)), maxBytes: cmp.Or(config.MaxBytes, DefaultMaxParkedBytes),
		turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		closed: make(chan struct{}), finished: make(chan struct{}),
		domains: contents.Domains, repeated: contents.Repeated, markedAt: contents.MarkedAt,
	}
	p.ctx, p.abort = context.WithCancel(context.Background())
	p.count(contents.Events, contents.Bytes)
	p.turn <- struct{}{}
	return p, nil
}

// count adds to what is parked. The turn is the caller's.
func (p *parker) count(events int, bytes int64) {
	p.events.Add(int64(events))
	p.bytes.Add(bytes)
	p.keys.Store(int64(len(p.domains)))
}

// enter takes the turn, unless ctx ends before.
func (p *parker) enter(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retire takes the turn for good, unless ctx ends or enough is closed before:
// what is being released has had its outcomes then, and nothing is any more.
func (p *parker) retire(ctx context.Context, enough <-chan struct{}) bool {
	select {
	case p.turn <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-enough:
	}
	return false
}

func (p *parker) leave() { <-p.turn }

// take parks the session's event if that is what is to be done with it. r is
// its record, bad why there is none or why it was refused. The turn is the
// caller's.
func (p *parker) take(ctx context.Context, delivery cdc.Delivery, r *publisher.Record, bad error) (bool, error) {
	p.passed = delivery.Position
	if id, known := p.repeated[delivery.Position]; known && id == string(p.s.event.ID) {
		// It was parked, or discarded, before the server sends it again.
		p.s.relay.Source.Ack(delivery.Token)
		p.s.state.acked(delivery.Position)
		return true, nil
	}
	waits := len(p.domains) > 0 && p.waits(r, delivery.Position)
	if bad == nil && !waits {
		bad = p.s.inspect(ctx, r)
	}
	if bad == nil && !waits || bad != nil && p.policy == Stop {
		return false, nil
	}
	domain := p.domain(r)
	if p.policy == Park && !waits {
		domain = parked.Domain{}
	}
	e := p.event(r, bad)
	e.Domain = domain
	if err := p.full(&e); err != nil {
		return false, p.s.hold(err)
	}
	if err := p.add(ctx, e, delivery.Token); err != nil {
		return false, err
	}
	if domain != (parked.Domain{}) && !waits {
		p.domains[domain] = e.Position
	}
	p.count(1, int64(e.Size()))
	if !waits {
		p.tell(&e)
	}
	return true, nil
}

// waits says whether an earlier event of the domain is parked. One before that
// may come after it: it was on its way when the other one was parked, and the
// session ended.
func (p *parker) waits(r *publisher.Record, position cdc.Position) bool {
	first, found := p.domains[p.domain(r)]
	return found && compare(first, position) < 0
}

// domain is that of the session's event.
func (p *parker) domain(r *publisher.Record) parked.Domain {
	var destination string
	var key []byte
	if r != nil {
		destination, key = p.s.relay.Format.Domain(r)
	} else if !p.s.raw {
		destination, key = p.s.relay.Format.DomainOf(&p.s.event, &p.s.arena)
	}
	if key == nil {
		return parked.Domain{}
	}
	var d parked.Domain
	d, p.scratch = parked.DomainOf(destination, key, p.scratch)
	return d
}

// event is a copy of the session's event, with why it is parked.
func (p *parker) event(r *publisher.Record, bad error) parked.Event {
	e := parked.Event{Event: p.s.event, Raw: p.s.raw, Reason: parked.Behind}
	for _, field := range [...]*[]byte{&e.ID, &e.AggregateType, &e.AggregateID, &e.Type, &e.Payload, &e.Headers} {
		*field = bytes.Clone(*field)
	}
	destination := ""
	if r != nil {
		destination = r.Topic
	} else if !e.Raw {
		destination, _ = p.s.relay.Format.DomainOf(&p.s.event, &p.s.arena)
	}
	e.Destination = strings.Clone(destination) // the arena would be kept
	if bad != nil {
		e.Reason, e.Detail = poisonText(bad)
	}
	return e
}

// poisonText is the reason and the detail of a poison error.
func poisonText(err error) (reason, detail string) {
	var poison *publisher.PoisonError
	if !errors.As(err, &poison) {
		return "unknown", err.Error()
	}
	detail = poison.Detail
	if poison.Err != nil {
		detail += ": " + poison.Err.Error()
	}
	return poison.Reason, detail
}

// full says why there is no room for another parked event.
func (p *parker) full(e *parked.Event) error {
	target := ""
	switch {
	case p.events.Load() >= p.maxEvents:
		target = fmt.Sprintf("%d events", p.maxEvents)
	case p.bytes.Load()+int64(e.Size()) > p.maxBytes:
		target = fmt.Sprintf("%d bytes", p.maxBytes)
	default:
		return nil
	}
	return &publisher.HeldError{Reason: codeParkedLimit, Target: target,
		Fix: "retry or discard parked events (outboxd parked …), or raise --max-parked-events or --max-parked-bytes"}
}

// add hands an event to the goroutine. It waits for room until ctx ends.
func (p *parker) add(ctx context.Context, e parked.Event, token uint64) error {
	size := e.Size()
	for {
		p.mu.Lock()
		if p.size+size <= maxUnwritten || p.size == 0 {
			p.unwritten, p.tokens, p.size = append(p.unwritten, e), append(p.tokens, token), p.size+size
			p.mu.Unlock()
			poke(p.wake)
			return nil
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// write writes what the handler has given, and acks it.
func (p *parker) write() error {
	p.mu.Lock()
	events, tokens := p.unwritten, p.tokens
	p.unwritten, p.tokens, p.size = nil, nil, 0
	p.mu.Unlock()
	if len(events) == 0 {
		return nil
	}
	if err := p.lot.Park(p.ctx, events); err != nil {
		return err
	}
	poke(p.room)
	for i := range events {
		p.s.relay.Source.Ack(tokens[i])
		p.s.relay.Metrics.Parked(events[i].Reason)
		p.s.state.acked(events[i].Position)
	}
	return nil
}

// run ends when the publisher has been closed, or with the first error of the
// lot. reading ends with the reading.
func (p *parker) run(reading context.Context) {
	defer close(p.finished)
	defer p.lot.Close()
	pause, err := p.round(reading)
	p.leave()
	due := time.NewTimer(pause)
	defer due.Stop()
	var turn chan struct{} // the turn, when a round is due
	for err == nil {
		select {
		case <-p.wake:
			err = p.write()
		case <-due.C:
			turn = p.turn
		case turn <- struct{}{}:
			turn = nil
			pause, err = p.round(reading)
			p.leave()
			due.Reset(pause)
		case <-p.closed:
			if err = p.write(); err == nil {
				return
			}
		}
	}
	p.s.cancel(err)
}

// close ends the goroutine once it has written what it can. The publisher must
// have been closed.
func (p *parker) close() {
	close(p.closed)
	limit := time.AfterFunc(lastWriteTimeout, p.abort)
	<-p.finished
	limit.Stop()
	p.abort()
}

// tell logs that an event was parked which waits for no other.
func (p *parker) tell(e *parked.Event) {
	skipped, ok := p.s.relay.parkedLines.allow(time.Now())
	if !ok {
		return
	}
	p.s.relay.Logger.Warn("parked an event that cannot be published", "event", string(e.ID), "position", e.Position.String(), "destination", e.Destination,
		"aggregateid", string(e.AggregateID), "reason", e.Reason, "detail", e.Detail, "skipped", skipped)
}

// limiter allows one line a second.
type limiter struct {
	last    time.Time
	skipped int
}

// allow says whether there may be another line, and how many were skipped since
// the last.
func (l *limiter) allow(now time.Time) (skipped int, ok bool) {
	if now.Sub(l.last) < time.Second {
		l.skipped++
		return 0, false
	}
	skipped, l.last, l.skipped = l.skipped, now, 0
	return skipped, true
}
