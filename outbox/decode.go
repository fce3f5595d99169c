package outbox

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrMalformed means that the content of a logical message is not what Emit's
// format says; the error that wraps it says what is wrong and where.
var ErrMalformed = errors.New("malformed message")

// Message is the content of one logical message.
type Message struct {
	// Time is when the events happened by the writer's clock, zero if it did
	// not say.
	Time   time.Time
	Events []Emitted
}

// Emitted is an event as a message holds it.
type Emitted struct {
	ID            ID
	AggregateType string // never empty
	// AggregateID is the event's key; Unkeyed says that there is none.
	AggregateID string
	Unkeyed     bool
	Type        string // never empty
	// Payload is what was written, byte for byte; nil is a NULL payload. It
	// may lie within the content that was decoded.
	Payload []byte
	// JSON says that Payload is JSON text in UTF-8; it is false for NULL.
	JSON bool
	// Headers are in the order of the message. Names may repeat.
	Headers []Header
}

// DecodeMessage reads the content of a logical message with MessagePrefix, as
// Emit or SQL wrote it. The error wraps ErrMalformed; it never panics, and what
// it allocates is in proportion to content.
func DecodeMessage(content []byte) (Message, error) {
	m, err := decodeMessage(content)
	if err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m, nil
}

// DecodeHeaders reads headers as a message or a headers column has them: a JSON
// object, or nothing. A string stands for itself, a number or boolean for its
// text, null for a header that is absent. The error wraps ErrMalformed.
func DecodeHeaders(object []byte) ([]Header, error) {
	if object == nil {
		return nil, nil
	}
	if err := checkJSON(object); err != nil {
		return nil, fmt.Errorf("%w: headers: %w", ErrMalformed, err)
	}
	headers, err := decodeHeaders(present(object))
	if err != nil {
		return nil, fmt.Errorf("%w: headers: %w", ErrMalformed, err)
	}
	return headers, nil
}

// The members of a message, and those of an event in it.
var (
	messageMembers = []string{"v", "time", "events"}
	eventMembers   = []string{"id", "aggregatetype", "aggregateid", "type", "payload", "payload_base64", "headers"}
	bareMembers    = slices.Concat(messageMembers, eventMembers)
)

func decodeMessage(content []byte) (Message, error) {
	if err := checkJSON(content); err != nil {
		return Message{}, err
	}
	members, err := membersOf(content, bareMembers)
	if err != nil {
		return Message{}, err
	}
	version, at, array, bare := members[0], members[1], members[2], members[3:]
	if version != nil && string(version) != messageVersion {
		return Message{}, fmt.Errorf("v: %s is a version this program does not know (it knows %s): use a newer outboxd",
			quoteShort(string(version)), messageVersion)
	}
	var m Message
	if m.Time, err = decodeTime(at); err != nil {
		return Message{}, fmt.Errorf("time: %w", err)
	}
	if array == nil {
		event, err := decodeEvent(bare)
		m.Events = []Emitted{event}
		return m, err
	}
	if i := slices.IndexFunc(bare, func(value []byte) bool { return value != nil }); i >= 0 {
		return Message{}, fmt.Errorf("%s: stands beside events, not in one of them", eventMembers[i])
	}
	m.Events, err = decodeEvents(array)
	return m, err
}

func decodeTime(value []byte) (time.Time, error) {
	if value == nil {
		return time.Time{}, nil
	}
	s, err := stringOf(value)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s is not like 2026-11-24T20:15:00Z (RFC 3339)", quoteShort(s))
	}
	return t.UTC(), nil
}

func decodeEvents(array []byte) ([]Emitted, error) {
	if array[0] != '[' {
		return nil, fmt.Errorf("events: %s is not an array", quoteShort(string(array)))
	}
	var events []Emitted
	err := eachElement(array, func(i int, element []byte) error {
		members, err := membersOf(element, eventMembers)
		if err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		event, err := decodeEvent(members)
		if err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		events = append(events, event)
		return nil
	})
	return events, err
}

// decodeEvent reads an event from its members, in the order of eventMembers.
func decodeEvent(members [][]byte) (e Emitted, err error) {
	id, aggregateType, aggregateID, typ := members[0], members[1], members[2], members[3]
	payload, encoded, headers := members[4], members[5], members[6]
	if e.ID, err = decodeID(id); err != nil {
		return e, fmt.Errorf("id: %w", err)
	}
	if e.AggregateType, err = requiredString(aggregateType); err != nil {
		return e, fmt.Errorf("aggregatetype: %w", err)
	}
	if e.Type, err = requiredString(typ); err != nil {
		return e, fmt.Errorf("type: %w", err)
	}
	if e.Unkeyed = aggregateID == nil; !e.Unkeyed {
		if e.AggregateID, err = scalarOf(aggregateID); err != nil {
			return e, fmt.Errorf("aggregateid: %w", err)
		}
	}
	if e.Payload, err = decodePayload(payload, encoded); err != nil {
		return e, err
	}
	e.JSON = payload != nil || isJSON(e.Payload)
	if e.Headers, err = decodeHeaders(headers); err != nil {
		return e, fmt.Errorf("headers: %w", err)
	}
	return e, nil
}

func decodeID(value []byte) (ID, error) {
	s, err := requiredString(value)
	if err != nil {
		return ID{}, err
	}
	return ParseID(s)
}

func decodePayload(payload, encoded []byte) ([]byte, error) {
	switch {
	case encoded == nil:
		return payload, nil
	case payload != nil:
		return nil, errors.New("payload_base64: stands beside payload, only one of them can be meant")
	}
	s, err := stringOf(encoded)
	if err != nil {
		return nil, fmt.Errorf("payload_base64: %w", err)
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("payload_base64: %w", err)
	}
	return decoded, nil
}

func decodeHeaders(object []byte) ([]Header, error) {
	if object == nil {
		return nil, nil
	}
	if object[0] != '{' {
		return nil, fmt.Errorf("%s is not an object", quoteShort(string(object)))
	}
	var headers []Header
	err := eachMember(object, func(name, value []byte) error {
		if string(value) == "null" {
			return nil
		}
		var h Header
		var err error
		if h.Name, err = stringOf(name); err != nil {
			return err
		}
		if h.Value, err = scalarOf(value); err != nil {
			return fmt.Errorf("%s: %w", quoteShort(h.Name), err)
		}
		headers = append(headers, h)
		return nil
	})
	return headers, err
}
