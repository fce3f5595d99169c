package record

import (
	"errors"
	"fmt"
	"slices"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/publisher"
)

const (
	headerContentType = "content-type"
	specVersion       = "1.0"
	// cloudTime is RFC 3339 with as many digits as the time has, at most
	// PostgreSQL's six.
	cloudTime = "2006-01-02T15:04:05.999999Z07:00"
)

// cloudEvents is CloudEvents 1.0 in binary mode. Header values are the
// attributes' texts as they are: neither the Kafka binding nor AMQP escapes
// them.
type cloudEvents struct {
	// The names of headers, with the broker's prefix.
	specVersionName, idName, sourceName, typeName, subjectName string
	timeName, aggregateTypeName, sequenceName                  string
	// contentTypeName is empty where the message has a property for it.
	contentTypeName string
	// reserved are the names that an event's own headers cannot have.
	reserved []string

	specVersion []byte
	source      []byte
	// contentTypes are by PayloadKind.
	contentTypes [Binary + 1][]byte
}

func newCloudEvents(o Options) (*cloudEvents, error) {
	source, err := o.source()
	if o.Debezium != (Debezium{}) {
		err = errors.Join(err, fmt.Errorf("the debezium options are for the style %s, not %s", DebeziumRouter, CloudEvents))
	}
	if err != nil {
		return nil, err
	}
	prefix, contentTypeName := "ce_", headerContentType
	if o.Broker == RabbitMQ {
		prefix, contentTypeName = "cloudEvents_", ""
	}
	c := &cloudEvents{
		specVersionName:   prefix + "specversion",
		idName:            prefix + "id",
		sourceName:        prefix + "source",
		typeName:          prefix + "type",
		subjectName:       prefix + "subject",
		timeName:          prefix + "time",
		aggregateTypeName: prefix + "aggregatetype",
		sequenceName:      prefix + "sequence",
		contentTypeName:   contentTypeName,
		specVersion:       []byte(specVersion),
		source:            []byte(source),
	}
	c.reserved = []string{
		c.specVersionName, c.idName, c.sourceName, c.typeName, c.subjectName,
		c.timeName, c.aggregateTypeName, c.sequenceName,
		headerReplayed, headerRetried,
	}
	for kind := range c.contentTypes {
		text := o.ContentType
		if text == "" {
			text = PayloadKind(kind).contentType()
		}
		c.contentTypes[kind] = []byte(text)
	}
	return c, nil
}

// check: CloudEvents requires id and type to be there and not to be empty.
func (c *cloudEvents) check(ev *Event) error {
	for _, f := range [...]field{fieldID, fieldType} {
		if value := f.text(ev); len(value) == 0 {
			return missingField(f, value, "CloudEvents need it")
		}
	}
	return nil
}

func (c *cloudEvents) key(ev *Event, arena *Arena) []byte { return arena.clone(ev.AggregateID) }

func (c *cloudEvents) fill(r *publisher.Record, ev *Event, arena *Arena) (int, error) {
	r.Key = c.key(ev, arena)
	r.Value = arena.clone(ev.Payload)
	r.Time = ev.when()
	id, kind := arena.clone(ev.ID), arena.clone(ev.Type)
	r.ID, r.Type = textOf(id), textOf(kind)
	contentType := c.contentTypes[ev.PayloadKind]

	h := append(arena.startHeaders(),
		publisher.Header{Name: c.specVersionName, Value: c.specVersion},
		publisher.Header{Name: c.idName, Value: id},
		publisher.Header{Name: c.sourceName, Value: c.source},
		publisher.Header{Name: c.typeName, Value: kind},
	)
	// An attribute that is there must not be empty.
	if len(r.Key) > 0 {
		h = append(h, publisher.Header{Name: c.subjectName, Value: r.Key})
	}
	h = append(h, publisher.Header{Name: c.timeName, Value: r.Time.AppendFormat(arena.alloc(len(cloudTime)), cloudTime)})
	if len(ev.AggregateType) > 0 {
		h = append(h, publisher.Header{Name: c.aggregateTypeName, Value: arena.clone(ev.AggregateType)})
	}
	if ev.Position != (cdc.Position{}) {
		h = append(h, publisher.Header{Name: c.sequenceName, Value: appendPosition(arena, ev.Position)})
	}

	at := len(h)
	if c.contentTypeName != "" {
		h = append(h, publisher.Header{Name: c.contentTypeName})
	}
	own := len(h)
	h, err := ParseHeaders(ev.Headers, h, arena)
	if err != nil {
		return 0, badHeaders(err)
	}
	h, contentType, skipped := c.admit(h, own, contentType)
	if c.contentTypeName != "" {
		h[at].Value = contentType
	}
	r.ContentType = textOf(contentType)
	r.Headers = arena.keepHeaders(appendMarks(h, ev))
	return skipped, nil
}

// admit takes the event's own headers, h[own:], as they are, but for two
// kinds. One that has the name of ours is left out: a consumer that reads the
// last of two equal names must not get what the row pretends. A content-type
// is not repeated but replaces ours: the writer knows what the column type
// cannot tell.
func (c *cloudEvents) admit(h []publisher.Header, own int, contentType []byte) ([]publisher.Header, []byte, int) {
	kept := h[:own]
	skipped := 0
	for _, header := range h[own:] {
		switch {
		case header.Name == headerContentType:
			contentType = header.Value
		case slices.Contains(c.reserved, header.Name):
			skipped++
		default:
			kept = append(kept, header)
		}
	}
	return kept, contentType, skipped
}

// positionLen is the length of a position's text.
var positionLen = len(cdc.Position{}.String())

func appendPosition(arena *Arena, p cdc.Position) []byte {
	b, _ := p.AppendText(arena.alloc(positionLen)) // never fails
	return b
}
