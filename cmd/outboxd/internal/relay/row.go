package relay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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

// names returns the column of each role.
func (c Columns) names() [roleCount]string {
	names := [roleCount]string{c.ID, c.AggregateType, c.AggregateID, c.Type, c.Payload, c.Headers, c.CreatedAt}
	for r, name := range [roleCount]string{"id", "aggregatetype", "aggregateid", "type", "payload", "headers", "created_at"} {
		if names[r] == "" {
			names[r] = name
		}
	}
	return names
}

// OIDs of the built-in types whose values are not taken as they come.
const (
	oidBytea       = 17
	oidJSON        = 114
	oidJSONB       = 3802
	oidTimestamp   = 1114
	oidTimestamptz = 1184
)

// plan says where in a row the parts of an event are. It is made once for each
// description of the table that the stream sends.
type plan struct {
	index   [roleCount]int // of the column; -1: the table lacks it
	payload uint32         // type of the payload column
	kind    record.PayloadKind
	created uint32 // type of the created_at column
}

// MissingColumnsError says that the event table, as the stream describes it,
// lacks columns that every event needs.
type MissingColumnsError struct {
	Table   string   // schema.name
	Missing []string // all of them
	Present []string
}

func (e *MissingColumnsError) Error() string {
	return fmt.Sprintf("read table %s: no column %s (it has %s)",
		e.Table, strings.Join(e.Missing, ", "), strings.Join(e.Present, ", "))
}

// Fix says what an operator does about it.
func (e *MissingColumnsError) Fix() string {
	return "name the columns with --columns id=…,aggregatetype=…,aggregateid=…,type=…,payload=…; if the publication has a column list, add them to it"
}

func newPlan(rel *cdc.Relation, columns Columns) (*plan, error) {
	p := &plan{}
	var missing []string
	for r, name := range columns.names() {
		p.index[r] = slices.IndexFunc(rel.Columns, func(c cdc.Column) bool { return c.Name == name })
		if p.index[r] < 0 && role(r) < optionalRoles {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		present := make([]string, len(rel.Columns))
		for i := range rel.Columns {
			present[i] = rel.Columns[i].Name
		}
		return nil, &MissingColumnsError{Table: rel.Schema + "." + rel.Name, Missing: missing, Present: present}
	}
	p.payload = rel.Columns[p.index[rolePayload]].Type
	switch p.payload {
	case oidJSON, oidJSONB:
		p.kind = record.JSON
	case oidBytea:
		p.kind = record.Binary
	default:
		p.kind = record.Text
	}
	if i := p.index[roleCreatedAt]; i >= 0 {
		p.created = rel.Columns[i].Type
	}
	return p, nil
}

// event reads a row into ev, whose slices then alias the row, or scratch,
// which is returned grown. Its error is a *publisher.PoisonError.
func (p *plan) event(row []cdc.Value, ev *record.Event, scratch []byte) ([]byte, error) {
	ev.ID = p.text(row, roleID)
	ev.AggregateType = p.text(row, roleAggregateType)
	ev.AggregateID = p.text(row, roleAggregateID)
	ev.Type = p.text(row, roleType)
	ev.Payload = p.text(row, rolePayload)
	ev.Headers = p.text(row, roleHeaders)
	ev.PayloadKind = p.kind
	ev.Time = parseTime(p.text(row, roleCreatedAt), p.created)
	if p.payload != oidBytea || ev.Payload == nil {
		return scratch, nil
	}
	var err error
	scratch, err = appendBytea(scratch[:0], ev.Payload)
	if err != nil {
		return scratch, &publisher.PoisonError{Reason: record.ReasonBadRecord, Detail: "decode the payload column, a bytea", Err: err}
	}
	ev.Payload = scratch[:len(scratch):len(scratch)]
	return scratch, nil
}

// text returns the value of a role, nil for NULL or a column that is not there.
func (p *plan) text(row []cdc.Value, r role) []byte {
	i := p.index[r]
	if i < 0 || i >= len(row) || row[i].Format == cdc.Null {
		return nil
	}
	if row[i].Bytes == nil {
		return []byte{}
	}
	return row[i].Bytes
}

// appendBytea appends the bytes of a bytea in its text form, which is
// bytea_output = hex on a replication connection.
func appendBytea(dst, text []byte) ([]byte, error) {
	digits, ok := bytes.CutPrefix(text, []byte(`\x`))
	if !ok {
		return dst, errors.New(`it does not begin with \x: bytea_output must be hex`)
	}
	return hex.AppendDecode(dst, digits)
}

// timeLayouts are what DateStyle ISO writes: a zone is hours, and minutes and
// seconds where it has them.
var timeLayouts = [...]string{
	"2006-01-02 15:04:05.999999-07",
	"2006-01-02 15:04:05.999999-07:00",
	"2006-01-02 15:04:05.999999-07:00:00",
}

// parseTime reads a timestamp. What is none (NULL, infinity, a year before
// Christ, another type) is the zero time, for which the commit time stands in.
func parseTime(text []byte, oid uint32) time.Time {
	switch {
	case text == nil:
	case oid == oidTimestamptz:
		for _, layout := range timeLayouts {
			if t, err := time.Parse(layout, string(text)); err == nil {
				return t.UTC()
			}
		}
	case oid == oidTimestamp: // by convention in UTC
		if t, err := time.Parse("2006-01-02 15:04:05.999999", string(text)); err == nil {
			return t
		}
	}
	return time.Time{}
}
