// Package publisher is the broker side of outboxd: what a record is, what a
// backend promises, and which errors it may answer with. The backends live in
// the packages below it (kafka, rabbitmq, jsonl); publishertest holds the suite
// that each of them passes against its real broker.
package publisher

import (
	"context"
	"time"
)

// Record is one item for a broker: an event after routing and formatting. Who
// publishes a record must not change it, or the bytes it points to, until Done
// has run for it.
type Record struct {
	// Topic is the Kafka topic or the AMQP routing key. Never empty.
	Topic string
	// Key is the partition key: with the destination it is the ordering
	// domain. A nil key belongs to no domain and may be placed anywhere; an
	// empty one is a key like any other.
	Key []byte
	// Value is published byte for byte. Nil is a Kafka tombstone and an empty
	// AMQP body.
	Value []byte
	// Headers keep their order. Names may repeat.
	Headers []Header

	// ID, Type, ContentType and Time repeat what the headers say for brokers
	// that have message properties of their own (AMQP); others ignore them.
	ID          string
	Type        string
	ContentType string
	Time        time.Time

	// Token is the publisher's user's: it comes back in Done, untouched.
	Token uint64
}

// Header is one record header.
type Header struct {
	Name  string
	Value []byte
}

// Size is what r adds to a budget of bytes: key, value and headers, without
// the framing of any protocol.
func (r *Record) Size() int {
	n := len(r.Topic) + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Name) + len(r.Headers[i].Value)
	}
	return n
}

// Done reports the outcome of one record: nil only after the broker has stored
// it as durably as it was asked to. It is called from goroutines of the
// publisher's, also from several at once, must return soon, and must not call
// the publisher.
type Done func(r *Record, err error)

// Publisher publishes records to one broker and reports each outcome to the
// Done it was opened with.
//
// The contract, which publishertest checks on every backend:
//
//   - Done runs exactly once for every record that Publish took (returned nil
//     for), at the latest while Close runs, and never after Close has
//     returned.
//   - What is wrong with a record is an outcome as well: one that is too large,
//     or whose topic is missing, is taken and fails in its turn.
//   - An ordering domain is (destination, Record.Key). The destination is the
//     Kafka topic, or the AMQP exchange, which is fixed: a key keeps its order
//     across routing keys. Records of one domain are delivered in the order of
//     Publish.
//   - The order holds also across a refusal. When a record fails, no later
//     record of its domain is or will be delivered by this publisher: each
//     that was taken is reported with an error. What was published before it
//     is still delivered.
//   - After the first failure a publisher is broken for good: Publish returns
//     an error sooner or later. Its user closes it and opens another, and
//     begins again with the first record that was not acked.
//   - Other domains may be failed along with the culprit, with an error that
//     wraps ErrAborted and not the culprit's own. Records so reported may have
//     been delivered only if the error wraps ErrUnknown.
//
// Publish must be called from one goroutine at a time. Close may be called
// while Publish blocks.
type Publisher interface {
	// Publish takes r. It may wait for room, never for the ack, and bounds
	// what it holds. It returns an error, and has not taken r, when ctx ends,
	// when the publisher is broken (the error then wraps the first failure) or
	// closed (ErrClosed).
	Publish(ctx context.Context, r *Record) error
	// Close takes nothing more and begins to send nothing more: what has not
	// been on its way fails with ErrClosed, and is not at the broker. It waits
	// until ctx ends for the outcomes of what is on its way, which is not sent
	// again either, and then fails the rest with ErrClosed and ErrUnknown. It
	// frees what it holds, and returns an error that wraps ErrClosed if it gave
	// records up. It is safe to call twice.
	//
	// Who wants everything published waits for the outcomes before: what was
	// taken is on its way as soon as there is room, without a timer or another
	// call.
	Close(ctx context.Context) error
}

// Inspector is what a Publisher may be as well: one that can tell of some
// records, before they are published, that the broker will never take them. Its
// user can do without such a record, and the publisher is not broken by it.
type Inspector interface {
	// Inspect returns the *PoisonError that r would fail with, or nil when
	// nothing is known against r, which may fail all the same. It does not take
	// r, and changes nothing for the records that were taken. It may ask the
	// broker, until ctx ends. It must not be called beside Publish.
	Inspect(ctx context.Context, r *Record) error
}

// Guard is asked before each write to a broker connection; an error keeps the
// bytes from being sent and ends the connection. It carries the lease: the
// right to publish ends when the replication side shows no sign of life. Nil
// means no guard. It must be fast and safe for concurrent use.
type Guard func() error
