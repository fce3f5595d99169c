package setup

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Columns maps what an event has to the names of columns of an existing table.
// An empty name means the default, which is in the field's comment.
type Columns struct {
	ID            string // id
	AggregateType string // aggregatetype
	AggregateID   string // aggregateid
	Type          string // type
	Payload       string // payload
	Headers       string // headers; the table may lack it
	CreatedAt     string // created_at; the table may lack it
}

// column is one entry of the mapping.
type column struct {
	field    string   // the default name, and what --columns calls it
	name     string   // in the table
	given    bool     // by --columns
	optional bool     // the table may lack it when it is not given
	types    []string // base types that the relay can read
}

var (
	textTypes = []string{"text", "varchar", "bpchar"}
	idTypes   = append([]string{"uuid", "int2", "int4", "int8", "numeric"}, textTypes...)
	jsonTypes = append([]string{"json", "jsonb"}, textTypes...)
)

// list returns the mapping in the order of the columns of a table made here.
func (c Columns) list() []column {
	entry := func(field, name string, types []string) column {
		return column{field: field, name: cmp.Or(name, field), given: name != "", types: types}
	}
	headers := entry("headers", c.Headers, jsonTypes)
	createdAt := entry("created_at", c.CreatedAt, []string{"timestamptz", "timestamp"})
	headers.optional, createdAt.optional = !headers.given, !createdAt.given
	return []column{
		entry("id", c.ID, idTypes),
		entry("aggregatetype", c.AggregateType, textTypes),
		entry("aggregateid", c.AggregateID, idTypes),
		entry("type", c.Type, textTypes),
		entry("payload", c.Payload, append([]string{"bytea"}, jsonTypes...)),
		headers,
		createdAt,
	}
}

// ParseColumns reads what --columns takes: field=column, separated by commas,
// as in id=event_id,aggregatetype=kind. All problems are reported at once.
func ParseColumns(s string) (Columns, error) {
	var c Columns
	fields := map[string]*string{
		"id": &c.ID, "aggregatetype": &c.AggregateType, "aggregateid": &c.AggregateID, "type": &c.Type,
		"payload": &c.Payload, "headers": &c.Headers, "created_at": &c.CreatedAt,
	}
	var errs []error
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		field, name, _ := strings.Cut(item, "=")
		target := fields[field]
		switch {
		case target == nil:
			errs = append(errs, fmt.Errorf("columns: %q has no field %q; there are %s", item, field, strings.Join(fieldNames(), ", ")))
		case name == "":
			errs = append(errs, fmt.Errorf("columns: %q: want %s=COLUMN", item, field))
		case *target != "":
			errs = append(errs, fmt.Errorf("columns: field %s is given twice", field))
		default:
			*target = name
		}
	}
	names := make(map[string]string)
	for _, col := range c.list() {
		if other, ok := names[col.name]; ok {
			errs = append(errs, fmt.Errorf("columns: %s and %s are both column %q", other, col.field, col.name))
		}
		names[col.name] = col.field
	}
	return c, errors.Join(errs...)
}

func fieldNames() []string {
	var names []string
	for _, col := range (Columns{}).list() {
		names = append(names, col.field)
	}
	return names
}

// String is what ParseColumns reads, without the defaults.
func (c Columns) String() string {
	var parts []string
	for _, col := range c.list() {
		if col.given && col.name != col.field {
			parts = append(parts, col.field+"="+col.name)
		}
	}
	return strings.Join(parts, ",")
}

// accepts says whether the relay can read a column of that base type.
func (c column) accepts(typ string) bool { return slices.Contains(c.types, typ) }
