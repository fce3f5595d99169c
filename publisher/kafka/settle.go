package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

// settle reports the outcome of every record of a window that was sent. The
// first failure, in the order of Publish, breaks the publisher; a batch that
// was refused is split before that.
func (l *lane) settle(slots []*slot) {
	culprit := firstFailed(slots)
	for culprit >= 0 && slots[culprit].preset == nil && judge(slots[culprit].err).class == poison {
		if alone := l.isolate(slots, culprit); alone >= 0 {
			culprit = alone
			break
		}
		culprit = firstFailed(slots) // all parts were taken: another batch may be next
	}
	if culprit >= 0 {
		l.failed(slots[culprit])
	}
	for i, s := range slots {
		switch {
		case i == culprit:
		case s.sent && s.err == nil:
			l.acked(s)
		default:
			l.givenUp(s)
		}
	}
}

func firstFailed(slots []*slot) int {
	return slices.IndexFunc(slots, func(s *slot) bool { return s.preset != nil || s.err != nil })
}

// isolate splits the batch of slots[first], which the broker refused as a
// whole, until the culprit stands alone, and returns its index. Records of the
// batch that stand before it are published by this, those behind it are left
// unsent: the search goes from the front and never sends what lies behind a
// part that was refused and not yet searched.
//
//	[a b c d e F g h]  refused
//	[a b c d]          stored: go on behind it
//	[e F]              refused: search in it
//	[e]                stored
//	[F]                refused, alone: the culprit; g and h were never stored
//
// It returns -1 when all parts were taken in the end.
func (l *lane) isolate(slots []*slot, first int) int {
	var batch []*slot
	var index []int
	for i, s := range slots[first:] {
		if s.place() == slots[first].place() && s.sent {
			batch, index = append(batch, s), append(index, first+i)
		}
	}
	if len(batch) == 1 {
		return first
	}
	for size := (len(batch) + 1) / 2; len(batch) > 1; {
		part := batch[:min(size, len(batch))]
		for _, s := range part {
			s.err = nil
		}
		l.flush(part)
		switch failed := anyFailed(part); {
		case !failed:
			batch, index = batch[len(part):], index[len(part):]
			size = max(1, (len(batch)+1)/2)
		case judge(part[0].err).class != poison || len(part) == 1:
			return index[0] // another failure, or the culprit
		default:
			size = len(part) / 2
		}
	}
	return l.last(batch, index)
}

// last tries a single record that is left, whose answer so far was that of the
// batch around it.
func (l *lane) last(batch []*slot, index []int) int {
	if len(batch) == 0 {
		return -1
	}
	batch[0].err = nil
	l.flush(batch)
	if batch[0].err == nil {
		return -1
	}
	return index[0]
}

func (l *lane) acked(s *slot) {
	l.pub.stats.records.Add(1)
	l.pub.stats.bytes.Add(uint64(s.size))
	l.pub.done(s.source, nil)
}

// failed reports the culprit and breaks the publisher before it does, so that
// its user finds it broken.
func (l *lane) failed(s *slot) {
	err := s.preset
	if err == nil {
		err = l.outcome(s)
	}
	var held *publisher.HeldError
	if errors.As(err, &held) {
		l.pub.stats.held.CompareAndSwap(nil, &held.Target)
	}
	l.pub.fail(err)
	l.report(s, err)
}

// outcome is what the client's answer to the culprit means.
func (l *lane) outcome(s *slot) error {
	if !cutShort(s.err) {
		return classify(s.err, s.topic.name,
			fmt.Sprintf("record takes %d bytes, refused alone by topic %q", batchOverhead+s.size, s.topic.name))
	}
	cause := context.Cause(l.pub.broken)
	var held *publisher.HeldError
	if errors.As(cause, &held) && held.Target == s.topic.name {
		return cause // the topic is gone, and the record with it
	}
	if isOutcome(cause) {
		return l.consequence(s) // another record's
	}
	if s.unsure() {
		return fmt.Errorf("%w: %w", cause, publisher.ErrUnknown)
	}
	return cause
}

// cutShort says whether err is an answer of ours and not of the broker's: the
// publisher was broken or closed while the record was waiting for one.
func cutShort(err error) bool {
	return errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, kgo.ErrAborting) || errors.Is(err, publisher.ErrClosed)
}

// givenUp reports a record that is not tried, or not tried again, because of
// another one or of Close.
func (l *lane) givenUp(s *slot) { l.report(s, l.consequence(s)) }

// consequence is the outcome of a record that is given up because the publisher
// is broken or closed.
func (l *lane) consequence(s *slot) error {
	cause := context.Cause(l.pub.broken)
	err := fmt.Errorf("%w: %v", publisher.ErrAborted, cause)
	if errors.Is(cause, publisher.ErrClosed) {
		err = publisher.ErrClosed
	}
	if s.unsure() {
		err = fmt.Errorf("%w: %w", err, publisher.ErrUnknown)
	}
	return err
}

// unsure says whether the broker may have the record though it was not acked.
// What the client aborts it has not sent, or the broker has not stored it.
func (s *slot) unsure() bool {
	return s.sent && judge(s.err).class == retry && !errors.Is(s.err, kgo.ErrAborting) && !errors.Is(s.err, publisher.ErrClosed)
}

func (l *lane) report(s *slot, err error) {
	if errors.Is(err, publisher.ErrClosed) {
		l.pub.stats.givenUp.Add(1)
	}
	l.pub.done(s.source, err)
}

// abort gives up a window that was not sent.
func (l *lane) abort(slots []*slot) {
	for _, s := range slots {
		l.givenUp(s)
	}
}
