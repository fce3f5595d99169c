package relay

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

// Columns are the names of the event table's columns. An empty name is the
// default, which is in the comment.
type Columns struct {
	ID            string // id
	AggregateType string // aggregatetype
	AggregateID   string // aggregateid
	Type          string // type
	Payload       string // payload
	Headers       string // headers; the table may lack it
	CreatedAt     string // created_at; the table may lack it
}

// role is the place of a column's value in an event.
type role uint8

const (
	roleID role = iota
	roleAggregateType
	roleAggregateID
	roleType
	rolePayload
	roleHeaders
	roleCreatedAt
	roleCount

	optionalRoles = roleHeaders // from here on the table may lack the column
)

var defaultNames = [roleCount]string{"id", "aggregatetype", "aggregateid", "type", "payload", "headers", "created_at"}

// names returns the column of each role.
func (c Columns) names() [roleCount]string {
	names := [roleCount]string{c.ID, c.AggregateType, c.AggregateID, c.Type, c.Payload, c.Headers, c.CreatedAt}
	for r, name := range defaultNames {
		if names[r] == "" {
			names[r] = name
		}
	}
	return names
}

// plan says where in a row the parts of an event are. It is made once for each
// description of the table that the stream sends.
type plan struct {
	index [roleCount]int    // of the column; -1: the table lacks it
	types [roleCount]uint32 // of the column
	kind  record.PayloadKind
}

// MissingColumnsError says that the event table, as the stream describes it,
// lacks columns that every event needs.
type MissingColumnsError struct {
	Table   string   // schema.name
	Missing []string // all of them
	Fields  []string // of an event, that they hold: what --columns calls them
	Present []string
}

func (e *MissingColumnsError) Error() string {
	return fmt.Sprintf("read table %s: no column %s (it has %s)",
		e.Table, strings.Join(e.Missing, ", "), strings.Join(e.Present, ", "))
}

// Fix says what an operator does about it.
func (e *MissingColumnsError) Fix() string {
	return fmt.Sprintf("name what holds them: --columns %s=…; if the publication has a column list, add %s to it",
		strings.Join(e.Fields, "=…,"), strings.Join(e.Missing, ", "))
}

// Check returns a *MissingColumnsError when a table with the columns present
// lacks one that every event needs.
func (c Columns) Check(table string, present []string) error {
	var missing, fields []string
	for r, name := range c.names() {
		if role(r) < optionalRoles && !slices.Contains(present, name) {
			missing, fields = append(missing, name), append(fields, defaultNames[r])
		}
	}
	if missing == nil {
		return nil
	}
	return &MissingColumnsError{Table: table, Missing: missing, Fields: fields, Present: present}
}

func newPlan(rel *cdc.Relation, columns Columns) (*plan, error) {
	present := make([]string, len(rel.Columns))
	for i := range rel.Columns {
		present[i] = rel.Columns[i].Name
	}
	if err := columns.Check(rel.Schema+"."+rel.Name, present); err != nil {
		return nil, err
	}
	p := &plan{}
	for r, name := range columns.names() {
		p.index[r] = slices.Index(present, name)
		if i := p.index[r]; i >= 0 {
			p.types[r] = rel.Columns[i].Type
		}
	}
	switch p.types[rolePayload] {
	case pgtype.JSONOID, pgtype.JSONBOID:
		p.kind = record.JSON
	case pgtype.ByteaOID:
		p.kind = record.Binary
	default:
		p.kind = record.Text
	}
	return p, nil
}

// event reads a row into ev, whose slices then alias the row, or scratch,
// which is returned grown. Its error is a *publisher.PoisonError.
func (p *plan) event(row []cdc.Value, ev *record.Event, scratch []byte) ([]byte, error) {
	ev.PayloadKind = p.kind
	scratch = scratch[:0]
	for r, field := range [...]*[]byte{
		roleID: &ev.ID, roleAggregateType: &ev.AggregateType, roleAggregateID: &ev.AggregateID,
		roleType: &ev.Type, rolePayload: &ev.Payload, roleHeaders: &ev.Headers,
	} {
		var err error
		if *field, scratch, err = p.bytes(row, role(r), scratch); err != nil {
			return scratch, &publisher.PoisonError{Reason: record.ReasonBadRecord, Detail: "decode the column of " + defaultNames[r], Err: err}
		}
	}
	ev.Time = p.time(row)
	return scratch, nil
}

// bytes returns what the column of a role holds, nil for NULL or a column that
// is not there. What the stream's bytes are not yet is made in scratch; when
// that grows, what was made before stays where it was.
func (p *plan) bytes(row []cdc.Value, r role, scratch []byte) (value, grown []byte, err error) {
	i := p.index[r]
	if i < 0 || row[i].Format == cdc.Null {
		return nil, scratch, nil
	}
	value, ok := row[i].Raw(p.types[r])
	if !ok {
		start := len(scratch)
		scratch, err = row[i].AppendBytes(scratch, p.types[r])
		value = scratch[start:len(scratch):len(scratch)]
	}
	if value == nil { // an empty value is not NULL
		value = []byte{}
	}
	return value, scratch, err
}

// time returns when the event was created. What is no time (NULL, infinity,
// another type) is the zero time, for which the commit time stands in.
func (p *plan) time(row []cdc.Value) time.Time {
	i := p.index[roleCreatedAt]
	if i < 0 {
		return time.Time{}
	}
	t, err := row[i].Time(p.types[roleCreatedAt])
	if err != nil {
		return time.Time{}
	}
	return t
}
