package record

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/outboxd/outboxd/publisher"
)

// Converter is the Kafka Connect converter whose output keys and values have.
type Converter string

const (
	// StringConverter writes text as it is; for a bytea payload it stands for
	// Debezium's BinaryDataConverter, which writes the bytes as they are.
	StringConverter Converter = "string"
	// JSONConverter is JsonConverter with schemas.enable=false: keys and
	// payloads become JSON strings, NULL becomes the text null.
	JSONConverter Converter = "json"
)

// Debezium holds what an installation of Debezium may have configured
// differently. The zero value is an untouched router with StringConverter.
type Debezium struct {
	// Converter is key.converter and value.converter. Empty: StringConverter.
	Converter Converter
	// Placement is table.fields.additional.placement:
	// column:header|envelope[:alias], separated by commas. The columns are id,
	// aggregatetype, aggregateid, type, headers and created_at, whatever the
	// table calls them.
	Placement string
	// IgnoreMissing is table.field.additional.missing=ignore: a placement of
	// any other column is left out instead of refused.
	IgnoreMissing bool
	// TombstoneOnEmpty is route.tombstone.on.empty.payload: a payload that is
	// NULL or empty makes a tombstone, whatever the converter.
	TombstoneOnEmpty bool
	// RouteBy is route.by.field, one of aggregatetype, aggregateid and type.
	// Empty: aggregatetype. Only with RouteRegex.
	RouteBy string
	// RouteRegex is route.topic.regex, in the syntax of Go's regexp. Its
	// groups are placeholders of Options.Topic, by name and by number. A value
	// that it does not match as a whole is the topic.
	RouteRegex string
}

// debeziumTime is how Debezium writes a timestamptz, at most PostgreSQL's six
// digits and never fewer.
const debeziumTime = "2006-01-02T15:04:05.000000Z07:00"

// debeziumEpoch is what Debezium puts for a NULL in a column that has a
// default it cannot evaluate, as created_at has.
var debeziumEpoch = []byte("1970-01-01T00:00:00.000000Z")

// headerID is the only header that an untouched router sets.
const headerID = "id"

// jsonContentType is that of every value that a JSONConverter makes.
const jsonContentType = "application/json"

// debezium gives the records of Debezium's outbox event router.
type debezium struct {
	json             bool
	tombstoneOnEmpty bool
	headers          []placement
	envelope         []placement
	contentType      string
}

func newDebezium(o Options) (*debezium, error) {
	d := &debezium{
		json:             o.Debezium.Converter == JSONConverter,
		tombstoneOnEmpty: o.Debezium.TombstoneOnEmpty,
		contentType:      o.ContentType,
	}
	var problems []error
	switch o.Debezium.Converter {
	case "", StringConverter, JSONConverter:
	default:
		problems = append(problems, fmt.Errorf("unknown debezium converter %q; known: %s, %s", o.Debezium.Converter, StringConverter, JSONConverter))
	}
	placements, err := parsePlacements(o.Debezium.Placement, o.Debezium.IgnoreMissing)
	problems = append(problems, err)
	for _, p := range placements {
		if p.envelope {
			d.envelope = append(d.envelope, p)
		} else {
			d.headers = append(d.headers, p)
		}
	}
	if len(d.envelope) > 0 && !d.json {
		problems = append(problems, fmt.Errorf("debezium placement %q: a placement in the envelope needs the converter %s", o.Debezium.Placement, JSONConverter))
	}
	if o.Source != "" {
		problems = append(problems, fmt.Errorf("a source is for the style %s, not %s", CloudEvents, DebeziumRouter))
	}
	return d, errors.Join(problems...)
}

func (d *debezium) check(ev *Event) error {
	if ev.ID == nil {
		return missingField(fieldID, nil, "the header id needs it")
	}
	return nil
}

func (d *debezium) key(ev *Event, arena *Arena) []byte { return d.convert(ev.AggregateID, arena) }

func (d *debezium) fill(r *publisher.Record, ev *Event, arena *Arena) (int, error) {
	r.Key = d.key(ev, arena)
	r.Value = d.value(ev, arena)
	id := arena.clone(ev.ID)
	r.ID = textOf(id)
	r.Type = textOf(arena.clone(ev.Type))
	r.Time = ev.when()
	r.ContentType = d.contentTypeOf(ev)

	h := append(arena.startHeaders(), publisher.Header{Name: headerID, Value: id})
	var scratch [len(debeziumTime)]byte
	for i := range d.headers {
		p := &d.headers[i]
		h = append(h, publisher.Header{Name: p.alias, Value: arena.clone(p.field.placed(ev, scratch[:0]))})
	}
	r.Headers = arena.keepHeaders(appendMarks(h, ev))
	return 0, nil
}

// convert is the converter's form of a text: NULL is no bytes for the one and
// the text null for the other.
func (d *debezium) convert(text []byte, arena *Arena) []byte {
	if !d.json {
		return arena.clone(text)
	}
	return appendJackson(arena.alloc(jacksonLen(text)), text)
}

func (d *debezium) value(ev *Event, arena *Arena) []byte {
	if d.tombstoneOnEmpty && len(ev.Payload) == 0 {
		return nil
	}
	payload := ev.Payload
	if d.json && ev.PayloadKind == Binary && payload != nil {
		payload = base64.StdEncoding.AppendEncode(arena.alloc(base64.StdEncoding.EncodedLen(len(payload))), payload)
	}
	if len(d.envelope) == 0 {
		return d.convert(payload, arena)
	}
	return d.enveloped(payload, ev, arena)
}

// enveloped is {"payload":…,"alias":…}, in the order of the placements.
func (d *debezium) enveloped(payload []byte, ev *Event, arena *Arena) []byte {
	var scratch [len(debeziumTime)]byte
	n := len(`{"payload":}`) + jacksonLen(payload)
	for i := range d.envelope {
		n += len(d.envelope[i].prefix) + jacksonLen(d.envelope[i].field.placed(ev, scratch[:0]))
	}
	b := append(arena.alloc(n), `{"payload":`...)
	b = appendJackson(b, payload)
	for i := range d.envelope {
		b = append(b, d.envelope[i].prefix...)
		b = appendJackson(b, d.envelope[i].field.placed(ev, scratch[:0]))
	}
	return append(b, '}')
}

func (d *debezium) contentTypeOf(ev *Event) string {
	switch {
	case d.json:
		return jsonContentType
	case d.contentType != "":
		return d.contentType
	default:
		return ev.PayloadKind.contentType()
	}
}
