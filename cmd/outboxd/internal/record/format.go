package record

import (
	"fmt"
	"sync/atomic"

	"github.com/outboxd/outboxd/publisher"
)

// Format makes records. It does not change once made, apart from a counter,
// and is safe for concurrent use.
type Format struct {
	broker       Broker
	topic        *template
	route        *route
	style        style
	allowUnkeyed bool
	skipped      atomic.Uint64
}

// style fills in everything of a record but its topic.
type style interface {
	// check finds what the style cannot do without.
	check(ev *Event) error
	// key returns the record's key.
	key(ev *Event, arena *Arena) []byte
	// fill fills r, and returns how many of the event's own headers it left
	// out.
	fill(r *publisher.Record, ev *Event, arena *Arena) (skipped int, err error)
}

// The headers that say why a record comes again, in every style. An event
// cannot set them.
const (
	headerReplayed = "outboxd-replayed"
	headerRetried  = "outboxd-retried"
)

// yes is the value of both. Like every value that records share, it is never
// written to.
var yes = []byte("true")

// Record returns the record of ev, in arena. Its error is always a
// *publisher.PoisonError with one of the reasons of this package: no record
// can be made of this event, now or later.
func (f *Format) Record(ev *Event, arena *Arena) (*publisher.Record, error) {
	if ev.AggregateID == nil && !f.allowUnkeyed {
		return nil, poison(ReasonMissingKey, "%s is NULL, so the event has no place in any order; publish such events in no order with --allow-unkeyed", fieldAggregateID)
	}
	if err := f.style.check(ev); err != nil {
		return nil, err
	}
	topic, err := f.topicOf(ev, arena)
	if err != nil {
		return nil, err
	}
	r := arena.record()
	r.Topic = textOf(topic)
	skipped, err := f.style.fill(r, ev, arena)
	if err != nil {
		return nil, err
	}
	if skipped > 0 {
		f.skipped.Add(uint64(skipped))
	}
	return r, nil
}

// Domain returns the destination and the key that are the ordering domain of a
// record of f. The destination is empty for RabbitMQ, where the exchange is
// fixed: a key keeps its order across routing keys. A nil key is no domain.
func (f *Format) Domain(r *publisher.Record) (destination string, key []byte) {
	if f.broker == RabbitMQ {
		return "", r.Key
	}
	return r.Topic, r.Key
}

// DomainOf is Domain for an event of which no record can be made, as far as
// its domain can be told.
func (f *Format) DomainOf(ev *Event, arena *Arena) (destination string, key []byte) {
	if ev.AggregateID == nil && !f.allowUnkeyed {
		return "", nil
	}
	r := publisher.Record{Key: f.style.key(ev, arena)}
	if f.broker != RabbitMQ {
		topic, err := f.topicOf(ev, arena)
		if err != nil {
			return "", nil
		}
		r.Topic = textOf(topic)
	}
	return f.Domain(&r)
}

// SkippedHeaders counts the headers of events that were left out because their
// names are those of headers that the Format sets.
func (f *Format) SkippedHeaders() uint64 { return f.skipped.Load() }

func (f *Format) topicOf(ev *Event, arena *Arena) ([]byte, error) {
	topic, groups, err := f.route.match(ev)
	if err != nil {
		return nil, err
	}
	if topic == nil {
		topic, err = f.topic.expand(ev, groups, arena)
	} else {
		topic = arena.clone(topic)
	}
	if err != nil {
		return nil, err
	}
	if p := f.broker.topicProblem(topic); p != "" {
		return nil, poison(ReasonBadTopic, "template %q gives %q: %s", f.topic.source, topic, p)
	}
	return topic, nil
}

// appendMarks appends the headers that say why the record comes again.
func appendMarks(h []publisher.Header, ev *Event) []publisher.Header {
	if ev.Replayed {
		h = append(h, publisher.Header{Name: headerReplayed, Value: yes})
	}
	if ev.Retried {
		h = append(h, publisher.Header{Name: headerRetried, Value: yes})
	}
	return h
}

// badHeaders is the outcome of an event whose headers cannot be read.
func badHeaders(err error) error {
	return &publisher.PoisonError{Reason: ReasonBadHeader, Detail: fmt.Sprintf("read the %s column", fieldHeaders), Err: err}
}
