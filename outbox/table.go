package outbox

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// DefaultTable is the name of the table where Table does not give one.
const DefaultTable = "outbox"

// Table is where and how events are written. The zero Table is the one that
// outboxd makes by default. A Table is a plain value, meant to be a package
// level variable of the service; it is safe for concurrent use.
type Table struct {
	// Name is the table's name, "outbox" or "shop.outbox", as the catalog has
	// it: it is quoted, never folded to lower case. A name that itself holds a
	// dot cannot be given. Empty means DefaultTable, found by the search_path.
	Name string
	// Columns are the names of the columns, for a table that exists already.
	Columns Columns
	// Payload is the type of the payload column. Empty means JSON.
	Payload PayloadType
	// MaxPayload is how many bytes a payload may have. Zero means
	// DefaultMaxPayload. The broker has a limit too; an event above it stops
	// at the relay, after the business transaction has committed.
	MaxPayload int
	// Propagate, if not nil, is called once for each Write and Emit and adds
	// headers to all events of the call: the trace context. An event's own
	// header of the same name wins. See the example for OpenTelemetry.
	Propagate func(ctx context.Context, set func(name, value string))
}

// Columns maps what an event has to the names of columns. An empty name means
// the default, which is in the field's comment. The columns of names and
// payload may be of any type that text is assigned to (text, varchar, char);
// other columns of the table must have a default.
type Columns struct {
	ID            string // id: uuid, or text
	AggregateType string // aggregatetype
	AggregateID   string // aggregateid
	Type          string // type
	Payload       string // payload: as Table.Payload says
	Headers       string // headers: jsonb, json or text. NoColumn: there is none
}

// NoColumn as Columns.Headers says that the table has no such column. Events
// with headers are then refused, because a header lost in silence is a bug
// that shows up elsewhere.
const NoColumn = "-"

// WithDefaults returns c with the default name for each empty one.
func (c Columns) WithDefaults() Columns {
	return Columns{
		ID:            cmp.Or(c.ID, "id"),
		AggregateType: cmp.Or(c.AggregateType, "aggregatetype"),
		AggregateID:   cmp.Or(c.AggregateID, "aggregateid"),
		Type:          cmp.Or(c.Type, "type"),
		Payload:       cmp.Or(c.Payload, "payload"),
		Headers:       cmp.Or(c.Headers, "headers"),
	}
}

// names returns the columns to write, in the order of the parameters.
func (c Columns) names() []string {
	c = c.WithDefaults()
	names := []string{c.ID, c.AggregateType, c.AggregateID, c.Type, c.Payload}
	if c.Headers != NoColumn {
		names = append(names, c.Headers)
	}
	return names
}

// PayloadType is the type of a payload column.
type PayloadType string

const (
	// JSON keeps the bytes as they were written, and checks that they are JSON.
	JSON PayloadType = "json"
	// JSONB can be indexed and queried, and does not keep the bytes: it drops
	// white space and duplicate keys, reorders keys, and refuses the escape
	// \u0000 and numbers beyond numeric.
	JSONB PayloadType = "jsonb"
	// Text keeps any UTF-8 text without NUL.
	Text PayloadType = "text"
	// Bytea keeps anything: Avro, Protobuf, compressed data.
	Bytea PayloadType = "bytea"
)

// Identifier returns the table's name for use in SQL: its Sanitize method
// quotes it.
func (t Table) Identifier() pgx.Identifier {
	return strings.Split(cmp.Or(t.Name, DefaultTable), ".")
}

// insertOne returns the statement for a single event; it costs the server half
// of what insertMany does. Its casts are those of insertMany, although a bare
// parameter would take on the type of any column: what works for one event must
// work for two.
func (t Table) insertOne() string {
	var b strings.Builder
	t.appendInsert(&b)
	b.WriteString(" VALUES (")
	t.appendParameters(&b, "")
	b.WriteString(")")
	return b.String()
}

// insertMany returns the statement for any number of events: a parameter for
// each column, an array as text. PostgreSQL evaluates unnest row by row, so
// that an identity column numbers the events in their order.
func (t Table) insertMany() string {
	var b strings.Builder
	t.appendInsert(&b)
	b.WriteString(" SELECT * FROM unnest(")
	t.appendParameters(&b, "[]")
	b.WriteString(")")
	return b.String()
}

func (t Table) appendInsert(b *strings.Builder) {
	b.WriteString("INSERT INTO " + t.Identifier().Sanitize() + " (")
	for i, name := range t.Columns.names() {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(pgx.Identifier{name}.Sanitize())
	}
	b.WriteString(")")
}

// appendParameters appends a parameter for each column. To the driver all of
// them are text: lib/pq, for one, encodes a string once more when the server
// expects a bytea.
func (t Table) appendParameters(b *strings.Builder, suffix string) {
	types := []string{"uuid", "text", "text", "text", string(t.payloadType()), "jsonb"}
	for i := range t.Columns.names() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(b, "$%d::text::%s%s", i+1, types[i], suffix)
	}
}

func (t Table) payloadType() PayloadType { return cmp.Or(t.Payload, JSON) }

func (t Table) maxPayload() int { return cmp.Or(t.MaxPayload, DefaultMaxPayload) }

func (t Table) hasHeaders() bool { return t.Columns.Headers != NoColumn }
