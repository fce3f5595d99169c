package parked

import (
	"cmp"
	"crypto/sha256"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
)

// Domain is an ordering domain: the hash of a destination and a key. The zero
// Domain is none.
type Domain [sha256.Size]byte

// DomainOf returns the domain of key at destination. It appends to scratch,
// which it returns grown.
func DomainOf(destination string, key, scratch []byte) (Domain, []byte) {
	scratch = append(scratch[:0], destination...)
	scratch = append(scratch, 0) // no destination holds it
	scratch = append(scratch, key...)
	return sha256.Sum256(scratch), scratch
}

// Event is one parked event.
type Event struct {
	record.Event
	// Raw: the event could not be decoded, and Payload is what there was of it.
	Raw bool
	// Domain is zero when no later event waits for this one.
	Domain Domain
	// Destination is where it was to go, empty if that is not known.
	Destination string
	// Reason is the short stable word of a *publisher.PoisonError, or Behind.
	Reason string
	// Detail says what was found, for people.
	Detail string
	// MarkedAt is when the row was marked, zero while nobody has.
	MarkedAt time.Time
}

// Behind is the reason of an event with which nothing is wrong but that an
// earlier one of its domain is parked.
const Behind = "behind"

// Size is what the event adds to a budget of bytes.
func (e *Event) Size() int {
	n := len(e.Destination) + len(e.Detail)
	for _, field := range [...][]byte{e.ID, e.AggregateType, e.AggregateID, e.Type, e.Payload, e.Headers} {
		n += len(field)
	}
	return n
}

// Target says what else waits if the world is in the way of the event: what goes
// to the same destination. One whose destination is not known stands for itself.
func (e *Event) Target() string { return cmp.Or(e.Destination, e.Position.String()) }

// Names of payload kinds in the table.
const (
	kindJSON   = "json"
	kindText   = "text"
	kindBinary = "binary"
	kindRaw    = "raw"
)

func (e *Event) kind() string {
	switch {
	case e.Raw:
		return kindRaw
	case e.PayloadKind == record.JSON:
		return kindJSON
	case e.PayloadKind == record.Text:
		return kindText
	default:
		return kindBinary
	}
}

func (e *Event) setKind(kind string) {
	switch kind {
	case kindJSON:
		e.PayloadKind = record.JSON
	case kindText:
		e.PayloadKind = record.Text
	default:
		e.PayloadKind = record.Binary
	}
	e.Raw = kind == kindRaw
}
