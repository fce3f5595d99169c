package record

import (
	"time"

	"github.com/outboxd/outboxd/cdc"
)

// Event is one domain event as the relay read it, from a row or from an
// emitted message. Byte slices may alias a buffer that is used again once the
// event has been formatted: Format.Record copies what it keeps. In each of
// them nil is SQL NULL and an empty slice is the empty text; the two are not
// the same.
type Event struct {
	// ID is the text of the id column: a UUID, or whatever an existing table
	// holds.
	ID []byte
	// AggregateType, AggregateID and Type are the columns of those names.
	AggregateType, AggregateID, Type []byte
	// Payload is published byte for byte.
	Payload []byte
	// PayloadKind is what the payload's column type says of it.
	PayloadKind PayloadKind
	// Headers is the text of the row's headers, a JSON object; ParseHeaders
	// says how it is read.
	Headers []byte
	// Time is when the event was created. Zero means NULL: the commit time
	// stands in for it.
	Time time.Time
	// CommitTime is when its transaction was committed, or the best that is
	// known of that.
	CommitTime time.Time
	// Position is the event's name in the pipeline. Zero: not known, because
	// the event was read from the table.
	Position cdc.Position
	// Replayed: published again on request, from the table. Retried: released
	// after it had been parked.
	Replayed, Retried bool
}

// PayloadKind says how the payload's column type describes its bytes.
type PayloadKind uint8

const (
	// JSON is a column of type json or jsonb, and every emitted event.
	JSON PayloadKind = iota
	// Text is any other column whose value is text.
	Text
	// Binary is a bytea column; Payload holds the bytes, not their text form.
	Binary
)

// contentType is the media type that the column type proves. A text column
// that holds JSON is still text: Options.ContentType, or the event's own
// content-type header, says so where it is known.
func (k PayloadKind) contentType() string {
	switch k {
	case JSON:
		return "application/json"
	case Text:
		return "text/plain; charset=utf-8"
	default:
		return "application/octet-stream"
	}
}

// when is the event's time for the world, in UTC.
func (ev *Event) when() time.Time {
	if ev.Time.IsZero() {
		return ev.CommitTime.UTC()
	}
	return ev.Time.UTC()
}

// field is a part of an event that a template or a placement can name.
type field uint8

const (
	fieldID field = iota
	fieldAggregateType
	fieldAggregateID
	fieldType
	fieldHeaders
	fieldCreatedAt
)

// String is the name of the field's column in the default table.
func (f field) String() string {
	return [...]string{"id", "aggregatetype", "aggregateid", "type", "headers", "created_at"}[f]
}

// text returns the text of a field that is text, nil for NULL.
func (f field) text(ev *Event) []byte {
	switch f {
	case fieldID:
		return ev.ID
	case fieldAggregateType:
		return ev.AggregateType
	case fieldAggregateID:
		return ev.AggregateID
	case fieldType:
		return ev.Type
	default:
		return ev.Headers
	}
}
