package relay

import (
	"errors"
	"strings"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/publisher"
)

// done is the publisher's report of one outcome. It runs on goroutines of the
// publisher's: it acks, or notes the failure and ends the session, and waits
// for nothing.
//
// An ack is passed on here and nowhere else: only a nil outcome, once, and only
// while the session lives. A publisher that reported one after its Close would
// ack a token that the source may already have given to the same event in the
// next session, where it is in flight again: the position would be confirmed
// with the second publish still open. That would lose nothing, but an outcome
// that breaks the contract may be wrong in any way, so it is counted and
// dropped; the event is at worst published twice.
func (s *session) done(r *publisher.Record, err error) {
	if s.ended.Load() {
		s.violation("an outcome came after the publisher had been closed")
		return
	}
	it, due := s.pages.outcome(r.Token)
	if !due {
		s.violation("a record has two outcomes")
		return
	}
	if err != nil {
		s.failed(r, it, err)
		s.pages.release(r.Token)
		return
	}
	it.acked.Inc()
	if it.batch != nil {
		it.batch.published(it.delivery.Position)
	} else {
		s.relay.Source.Ack(it.delivery.Token)
		s.relay.Metrics.CommitToAck(time.Since(it.commit))
	}
	s.state.acked(it.delivery.Position)
	s.pages.release(r.Token)
}

func (s *session) violation(detail string) {
	s.relay.Metrics.Violation("ack")
	s.relay.Logger.Error("invariant broken", "detail", detail)
}

// failed notes a failure and ends the session with the first. What is reported
// as given up behind another record is only a consequence, whichever report
// comes first.
func (s *session) failed(r *publisher.Record, it *item, err error) {
	// The texts of r lie in an arena, which a failure that is kept would keep.
	f := &failure{position: it.delivery.Position, id: strings.Clone(r.ID), commit: it.commit, err: err}
	if it.batch != nil {
		f.released, f.target = true, it.batch.target(f.position)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var poison *publisher.PoisonError
	switch {
	case errors.Is(err, publisher.ErrAborted), errors.Is(err, publisher.ErrClosed):
		s.failedBehind(f)
	case errors.As(err, &poison):
		event := &PoisonEvent{
			ID: f.id, Position: f.position, Destination: strings.Clone(r.Topic), AggregateID: string(r.Key), Type: strings.Clone(r.Type), Err: err,
		}
		f.err = event
		if f.released {
			s.rejected = f
			break
		}
		if s.found == nil {
			s.found = map[cdc.Position]*PoisonEvent{}
		}
		s.found[f.position] = event
		s.poisoned(f)
	default:
		s.failedFirst(f)
	}
	s.cancel(f.err)
	if it.batch != nil {
		it.batch.failed(f.position, poison)
	}
}

// failedFirst notes a failure that is no consequence. What was released stays
// parked: it is not in the way of anything. The caller holds mu.
func (s *session) failedFirst(f *failure) {
	if !f.released {
		s.lower(f.position)
	}
	if s.first == nil {
		s.first = f
	}
}

// failedBehind notes the failure that is first in the WAL of those that are
// consequences. The caller holds mu.
func (s *session) failedBehind(f *failure) {
	if f.released {
		return
	}
	s.lower(f.position)
	if s.behind == nil || compare(f.position, s.behind.position) < 0 {
		s.behind = f
	}
}

// poisoned notes a poison event, of several the one that is first in the WAL.
// The caller holds mu.
func (s *session) poisoned(f *failure) {
	if s.poison == nil {
		s.poison = f
		return
	}
	if compare(f.position, s.poison.position) < 0 {
		s.poison, f = f, s.poison
	}
	s.lower(f.position)
}

// lower notes the position of an event that must be published again.
func (s *session) lower(p cdc.Position) {
	if s.lowest == nil || compare(p, *s.lowest) < 0 {
		s.lowest = &p
	}
}

// cause decides what the session ended with. err is what its stream, or the
// opening of its publisher, returned. The failure is the event that was in the
// way, nil when none was. Every outcome has been reported by now.
func (s *session) cause(err error) (*failure, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.poison != nil:
		return s.poisonCause()
	case s.rejected != nil:
		return nil, &poisonPending{s.rejected}
	case replicationLost(err):
		return nil, err
	case s.first != nil:
		return s.first, s.first.err
	}
	return s.behind, err
}

// poisonCause is the poison event, if the relay stops in front of such and
// everything before it in the WAL is published. Until then the next session
// publishes that: the event cannot overtake those that were given up because of
// it. What the world is to blame for is then told of first.
func (s *session) poisonCause() (*failure, error) {
	if s.stops() && (s.lowest == nil || compare(s.poison.position, *s.lowest) < 0) {
		return s.poison, s.poison.err
	}
	if s.first != nil {
		return s.first, s.first.err
	}
	return s.poison, &poisonPending{s.poison}
}

// stops says whether the relay stops in front of a poison event.
func (s *session) stops() bool { return s.relay.Parking == nil || s.relay.Parking.Policy == Stop }
