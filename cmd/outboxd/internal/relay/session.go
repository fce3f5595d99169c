package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

// keptScratch is the largest scratch that is kept for the next event.
const keptScratch = 64 << 10

// session is one stream and one publisher, from open to close.
type session struct {
	relay *Relay
	state *state
	pages *pages
	// condemned are the events that a broker refused as poison in earlier
	// sessions. When their turn comes they are treated like events of which no
	// record can be made.
	condemned map[cdc.Position]*PoisonEvent

	stream Stream
	pub    publisher.Publisher
	parker *parker // nil: the relay stops in front of a poison event

	// The handler's.
	plans    map[*cdc.Relation]*plan // nil plan: not our table
	counters map[string]prometheus.Counter
	arena    record.Arena
	event    record.Event
	raw      bool // the event could not be decoded: it is its payload
	scratch  []byte

	// ended is set when the publisher has been closed: an outcome after that
	// breaks the publisher's contract, and must not ack what the next session
	// has already sent again.
	ended atomic.Bool
	// broken ends when something could not be published, by cancel.
	broken context.Context
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	first    *failure                      // the first that was no consequence of another
	behind   *failure                      // the first of the others
	poison   *failure                      // the poison event that comes first in the WAL
	lowest   *cdc.Position                 // of the events that failed and are not poison
	found    map[cdc.Position]*PoisonEvent // what the broker refused as poison in this session
	rejected *failure                      // a released event that is poison again
}

// failure is an event that could not be published.
type failure struct {
	position cdc.Position
	id       string
	commit   time.Time
	err      error
	released bool   // it was parked, and is still
	target   string // of a released event
}

// run is one session: it returns why it ended, with the event that failed if
// that was the cause. It returns when everything is closed and every outcome
// has been reported.
func (s *session) run(ctx context.Context) (*failure, error) {
	stream, err := s.relay.Source.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	s.stream = stream
	s.state.lead()
	// A stop ends the reading, a failure the publishing too.
	s.broken, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.cancel(nil)
	running, stop := context.WithCancelCause(s.broken)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { stop(context.Cause(ctx)) })()
	if err = s.openBroker(running); err == nil {
		s.state.up(s.relay.Source.Stats().Epoch)
		err = stream.Run(running, s.handle)
	} else if class := classify(err, s.state.worked()).Class; !s.relay.FailFast && (class == Retry || class == Held) {
		err = s.idle(running, err)
	}
	stop(nil) // nothing more is released either
	s.drain(ctx, err)
	return s.cause(err)
}

// idle follows the slot for a while without a broker, until there is an event
// for it: while the outbox is idle the WAL of its neighbours must not pile up
// behind a slot only because a broker is away. It returns away, which is why
// there is none, or why the stream ended.
func (s *session) idle(ctx context.Context, away error) error {
	over := errors.New("time for another attempt")
	ctx, cancel := context.WithTimeoutCause(ctx, idleTime, over)
	defer cancel()
	err := s.stream.Run(ctx, func(_ context.Context, m *cdc.Message) error {
		s.waits(&failure{position: cdc.Position{Epoch: s.relay.Source.Stats().Epoch, Commit: m.Commit}, commit: m.CommitTime, err: away})
		return over
	})
	if errors.Is(err, over) {
		return away
	}
	return err
}

// openBroker opens the publisher and, if events are parked, their lot. ctx ends
// with the reading.
func (s *session) openBroker(ctx context.Context) error {
	bound, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	pub, err := s.relay.OpenPublisher(bound, s.done, s.stream.Guard)
	if err != nil {
		return fmt.Errorf("open broker: %w", err)
	}
	s.pub = pub
	if s.relay.Parking == nil {
		return nil
	}
	if s.parker, err = newParker(bound, s); err != nil {
		return fmt.Errorf("open parked events: %w", err)
	}
	s.relay.parker.Store(s.parker)
	go s.parker.run(ctx)
	return nil
}

// drain ends the session. First the publisher, so that every ack there will
// ever be has reached the source; then the parked events, which are acked once
// they are durable; then the stream, which makes the acked position durable and
// confirms it.
func (s *session) drain(ctx context.Context, cause error) {
	// A session that failed leaves its rest to the next one; after a stop it is
	// for the operator to know that there is a rest.
	level := slog.LevelDebug
	if ctx.Err() != nil {
		s.state.stop(Stopping)
		level = slog.LevelWarn
	}
	// The drain goes on after a stop was asked for: that is what it is for.
	ctx = context.WithoutCancel(ctx)
	if s.pub != nil {
		if err := s.closePublisher(ctx, cause); err != nil {
			s.relay.Logger.Log(ctx, level, "not everything was acked: the rest is published again by the next relay", "error", err.Error())
		}
	}
	s.ended.Store(true)
	if s.parker != nil {
		s.parker.close()
	}
	closing, cancel := context.WithTimeout(ctx, streamCloseTimeout)
	defer cancel()
	if err := s.stream.Close(closing); err != nil {
		s.relay.Logger.Log(ctx, level, "the last position was not confirmed: what was published since may be published again", "error", err.Error())
	}
}

// closePublisher waits until everything that was taken is published, for as
// long as that makes sense: until a record fails, the replication is lost or
// the drain timeout is over. What is not on its way by then is given up.
func (s *session) closePublisher(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.relay.DrainTimeout, DefaultDrainTimeout))
	defer cancel()
	// Also when a stop was asked for at the same moment: a server that stops
	// must not wait for us, and a successor may publish already.
	if !replicationLost(cause) {
		waiting, stop := context.WithCancel(ctx)
		defer context.AfterFunc(s.broken, stop)()
		if s.parker == nil || s.parker.retire(waiting, s.stream.Lost()) {
			s.pages.wait(waiting, s.stream.Lost())
		}
		stop()
	}
	ctx, cancel = context.WithTimeout(ctx, publisherCloseTimeout)
	defer cancel()
	return s.pub.Close(ctx)
}

// handle publishes the events of one message. It runs on the goroutine of
// Stream.Run and blocks while there is no room.
func (s *session) handle(ctx context.Context, m *cdc.Message) error {
	if s.parker != nil {
		if err := s.parker.enter(ctx); err != nil {
			return err
		}
		defer s.parker.leave()
	}
	defer s.forget()
	switch m.Kind {
	case cdc.Insert:
		return s.handleRow(ctx, m)
	case cdc.Logical:
		return s.handleEmitted(ctx, m)
	default:
		return &invariantError{kind: "order", detail: fmt.Sprintf("message of unknown kind %d", m.Kind)}
	}
}

// forget lets go of the event that was handled: it lies in the buffer of the
// stream, or in scratch, which may be as large as it was.
func (s *session) forget() {
	s.event = record.Event{}
	if cap(s.scratch) > keptScratch {
		s.scratch = nil
	}
}

func (s *session) handleRow(ctx context.Context, m *cdc.Message) error {
	p, err := s.planOf(m.Relation)
	if err != nil {
		return err
	}
	if p == nil {
		s.relay.Metrics.Ignored()
		return nil
	}
	delivery, wanted := m.Next()
	if !wanted {
		return nil
	}
	s.event, s.raw = record.Event{}, false
	s.scratch, err = p.event(m.Row, &s.event, s.scratch)
	return s.publish(ctx, m, delivery, err)
}

// planOf returns the plan for a description of a table, nil for a table that
// is not the pipeline's: somebody has added it to the publication.
func (s *session) planOf(rel *cdc.Relation) (*plan, error) {
	if p, known := s.plans[rel]; known {
		return p, nil
	}
	if name := rel.Schema + "." + rel.Name; name != s.relay.Table {
		s.relay.Logger.Warn("ignoring rows of a table that is not the pipeline's: take it out of the publication", "table", name)
		s.plans[rel] = nil
		return nil, nil
	}
	p, err := newPlan(rel, s.relay.Columns)
	if err != nil {
		return nil, err
	}
	s.plans[rel] = p
	return p, nil
}

// handleEmitted asks for the place of every event of the message, also of those
// that were published before: the ordinals count them all. A message that
// cannot be decoded counts as one event.
func (s *session) handleEmitted(ctx context.Context, m *cdc.Message) error {
	message, ours, err := emitted(m)
	if !ours {
		s.relay.Metrics.Ignored()
		return nil
	}
	if err != nil {
		delivery, wanted := m.Next()
		if !wanted {
			return nil
		}
		s.event, s.raw = record.Event{Payload: m.Content, PayloadKind: record.Binary}, true
		return s.publish(ctx, m, delivery, err)
	}
	for i := range message.Events {
		delivery, wanted := m.Next()
		if !wanted {
			continue
		}
		s.event, s.raw = record.Event{}, false
		err := fromEmitted(&message.Events[i], &message, &s.event)
		if err := s.publish(ctx, m, delivery, err); err != nil {
			return err
		}
	}
	return nil
}

// publish makes the record of s.event and gives it to the publisher, or parks
// the event. bad is what was wrong with it when it was read.
func (s *session) publish(ctx context.Context, m *cdc.Message, delivery cdc.Delivery, bad error) error {
	s.relay.Metrics.Received()
	s.event.Position, s.event.CommitTime = delivery.Position, m.CommitTime
	r, err := s.record(bad)
	if s.parker != nil {
		if parked, problem := s.parker.take(ctx, delivery, r, err); parked || problem != nil {
			return problem
		}
	}
	if err != nil {
		return s.refuse(err)
	}
	return s.send(ctx, r, delivery, m.CommitTime, nil)
}

// record makes the record of s.event. With an error there is a record only if
// it was refused before.
func (s *session) record(bad error) (*publisher.Record, error) {
	if bad != nil {
		return nil, bad
	}
	r, err := s.relay.Format.Record(&s.event, &s.arena)
	if err != nil {
		return nil, err
	}
	// An event that does not come any more, because another relay published it or
	// because a new epoch gave it another position, is not looked for.
	if poison := s.condemned[s.event.Position]; poison != nil {
		return r, poison
	}
	return r, nil
}

// inspect asks the publisher whether r can never be published, if it can tell.
func (s *session) inspect(ctx context.Context, r *publisher.Record) error {
	if i, can := s.pub.(publisher.Inspector); can {
		return i.Inspect(ctx, r)
	}
	return nil
}

// send gives a record to the publisher. b is the batch of a released one.
func (s *session) send(ctx context.Context, r *publisher.Record, delivery cdc.Delivery, commit time.Time, b *batch) error {
	token, it, err := s.pages.take(ctx, r.Size())
	if err != nil {
		return err
	}
	it.delivery, it.commit, it.batch, it.acked = delivery, commit, b, s.counter(r.Topic)
	r.Token = token
	if err := s.pub.Publish(ctx, r); err != nil {
		s.untake(token)
		if b == nil && ctx.Err() == nil {
			s.waits(&failure{position: delivery.Position, id: strings.Clone(r.ID), commit: commit, err: err})
		}
		return s.declined(ctx, err)
	}
	return nil
}

// waits notes an event that no publisher took: nothing is wrong with it, but it
// must not be forgotten while the broker is away, or nobody would see that
// something waits.
func (s *session) waits(f *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failedBehind(f)
}

// declined judges the error of a Publish. One that is about a record is about
// another one: its own outcome may still wait for its turn, and tells which it
// was. Until then nothing is closed, or that turn would never come; and the
// error, which would blame this record, is kept from the classifier.
func (s *session) declined(ctx context.Context, err error) error {
	var poison *publisher.PoisonError
	var held *publisher.HeldError
	if errors.As(err, &poison) || errors.As(err, &held) {
		return fmt.Errorf("publish: %v", err)
	}
	err = fmt.Errorf("publish: %w", err)
	if ctx.Err() == nil {
		s.cancel(err)
	}
	return err
}

// untake gives back the item of a record that the publisher did not take.
func (s *session) untake(token uint64) {
	if _, ok := s.pages.outcome(token); !ok {
		s.violation("a record that the publisher did not take has an outcome")
		return
	}
	s.pages.release(token)
}

// refuse ends the session in front of s.event, which is poison.
func (s *session) refuse(err error) error {
	event := &PoisonEvent{
		ID: string(s.event.ID), Position: s.event.Position,
		AggregateType: string(s.event.AggregateType), AggregateID: string(s.event.AggregateID),
		Type: string(s.event.Type), Err: err,
	}
	_ = errors.As(err, &event) // a condemned one is known better
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poisoned(&failure{position: event.Position, id: event.ID, commit: s.event.CommitTime, err: event})
	return event
}

// hold ends the session in front of s.event, which waits for the world.
func (s *session) hold(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lower(s.event.Position)
	if s.first == nil {
		s.first = &failure{position: s.event.Position, id: string(s.event.ID), commit: s.event.CommitTime, err: err}
	}
	return err
}

// counter caches the counters of the destinations, which take a lock to find.
func (s *session) counter(topic string) prometheus.Counter {
	c, ok := s.counters[topic]
	if !ok {
		if len(s.counters) >= maxCounters {
			clear(s.counters)
		}
		c = s.relay.Metrics.Published(topic)
		// The topic's bytes lie in the arena: a map that kept them would keep
		// the arena's memory too.
		s.counters[strings.Clone(topic)] = c
	}
	return c
}

// compare orders positions as their texts do.
func compare(a, b cdc.Position) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Commit, b.Commit), cmp.Compare(a.Ordinal, b.Ordinal))
}
