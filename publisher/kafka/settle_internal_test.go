package kafka

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

// TestAbortedIsNoAck: a record that the client aborts before the publisher knows
// that it is broken must not be reported as stored.
func TestAbortedIsNoAck(t *testing.T) {
	var reported error
	p := &Publisher{done: func(_ *publisher.Record, err error) { reported = err }}
	p.broken, p.fail = context.WithCancelCause(t.Context())
	l := newLane(p)
	s := &slot{source: &publisher.Record{}, topic: &topic{name: "t"}, sent: true, err: kgo.ErrAborting}
	l.settle([]*slot{s})
	if reported == nil {
		t.Error("the record is acked")
	}
	if p.broken.Err() == nil {
		t.Error("the publisher is not broken")
	}
}
