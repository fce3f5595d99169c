package outbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// ValidationError says what is wrong with the events of a Write or Emit: all
// of it at once. Nothing was sent to the server.
type ValidationError struct {
	Problems []Problem // at least one, in the order of the events
}

// Problem is one thing that is wrong.
type Problem struct {
	// Index is the event's place in the call, from 0. It is -1 when the Table
	// is wrong; Event is then zero.
	Index int
	// Event is the event as it was given.
	Event Event
	// Field is the field's name in Event or Table, such as "AggregateID".
	Field string
	// Reason completes the sentence that Field begins: "is empty".
	Reason string
}

// String returns the problem as one line.
func (p Problem) String() string {
	if p.Index < 0 {
		return "Table." + p.Field + " " + p.Reason
	}
	var which []string
	if p.Event.Type != "" {
		which = append(which, "type "+quoteShort(p.Event.Type))
	}
	if !p.Event.ID.IsZero() {
		which = append(which, "id "+p.Event.ID.String())
	}
	if which == nil {
		return fmt.Sprintf("event %d: %s %s", p.Index, p.Field, p.Reason)
	}
	return fmt.Sprintf("event %d (%s): %s %s", p.Index, strings.Join(which, ", "), p.Field, p.Reason)
}

// Error lists the problems, the first ten of them.
func (e *ValidationError) Error() string {
	const limit = 10
	var b strings.Builder
	b.WriteString("outbox: nothing written: ")
	for i, p := range e.Problems {
		if i == limit {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-limit)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// reservedPrefixes are those of the headers that the relay makes itself.
var reservedPrefixes = [...]string{"ce_", "cloudevents_", "cloudevents:", "outboxd-"}

// checker collects the problems of one call.
type checker struct {
	table    Table
	to       target
	problems []Problem

	index int // the event being checked
	event *Event
}

func (c *checker) add(field, format string, args ...any) {
	c.problems = append(c.problems, Problem{
		Index: c.index, Event: *c.event, Field: field, Reason: fmt.Sprintf(format, args...),
	})
}

func (c *checker) checkTable() {
	c.index, c.event = -1, &Event{}
	if c.table.MaxPayload < 0 {
		c.add("MaxPayload", "is negative: %d", c.table.MaxPayload)
	}
	if c.to == forMessage {
		return // a message goes to no table
	}
	name := c.table.Identifier()
	if len(name) > 2 || slices.Contains(name, "") {
		c.add("Name", "%q is neither a table nor schema.table", c.table.Name)
	}
	types := []PayloadType{JSON, JSONB, Text, Bytea}
	if !slices.Contains(types, c.table.payloadType()) {
		c.add("Payload", "%q is not one of %v", c.table.Payload, types)
	}
	if !c.table.hasHeaders() && c.table.Propagate != nil {
		c.add("Propagate", "needs a headers column, and Columns.Headers says there is none")
	}
}

// checkIDs finds ids given twice: consumers would drop the second event.
func (c *checker) checkIDs(events []Event) {
	first := make(map[ID]int)
	for i := range events {
		if events[i].ID.IsZero() {
			continue
		}
		if j, ok := first[events[i].ID]; ok {
			c.index, c.event = i, &events[i]
			c.add("ID", "is also that of event %d", j)
			continue
		}
		first[events[i].ID] = i
	}
}

func (c *checker) checkName(field, s string) {
	switch {
	case s == "":
		c.add(field, "is empty")
	case len(s) > MaxName:
		c.add(field, "has %d bytes, the limit is %d", len(s), MaxName)
	}
	c.checkText(field, "", s)
}

// checkText reports what no text column can store.
func (c *checker) checkText(field, of, s string) {
	if !utf8.ValidString(s) {
		c.add(field, "%sis not valid UTF-8", of)
	}
	if strings.IndexByte(s, 0) >= 0 {
		c.add(field, "%sholds a NUL byte", of)
	}
}

func (c *checker) checkHeaders(headers []Header) {
	if len(headers) > 0 && c.to == forTable && !c.table.hasHeaders() {
		c.add("Headers", "have no column: Table.Columns.Headers says there is none")
	}
	for _, h := range headers {
		name := quoteShort(h.Name)
		switch {
		case h.Name == "":
			c.add("Headers", "hold an empty name")
		case strings.ContainsFunc(h.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
			c.add("Headers", "name %s holds a control character", name)
		case !utf8.ValidString(h.Name):
			c.add("Headers", "name %s is not valid UTF-8", name)
		case isReserved(h.Name):
			c.add("Headers", "name %s has a prefix reserved for outboxd", name)
		}
		c.checkText("Headers", "value of "+name+" ", h.Value)
	}
}

func isReserved(name string) bool {
	return slices.ContainsFunc(reservedPrefixes[:], func(prefix string) bool {
		return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
	})
}

func (c *checker) checkPayload(payload []byte, raw bool) {
	if limit := c.table.maxPayload(); len(payload) > limit {
		c.add("Payload", "has %d bytes, the limit is %d (Table.MaxPayload)", len(payload), limit)
	}
	if c.to == forMessage || c.table.payloadType() == Bytea {
		return // both carry any bytes
	}
	wantJSON := c.table.payloadType() != Text
	switch {
	case raw && !utf8.Valid(payload):
		c.add("Payload", "is not valid UTF-8 (binary payloads need a bytea column, Table.Payload)")
	case raw && wantJSON && !json.Valid(payload):
		c.add("Payload", "is not JSON: %v", syntaxError(payload))
	case raw && !wantJSON && bytes.IndexByte(payload, 0) >= 0:
		c.add("Payload", "holds a NUL byte")
	case c.table.payloadType() == JSONB:
		if escape := badEscape(payload); escape != "" {
			c.add("Payload", "holds the escape %s, which a jsonb column refuses and a json column takes", escape)
		}
	}
}

// syntaxError says where text stops being JSON.
func syntaxError(text []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(text, &v)
	if syntax, ok := err.(*json.SyntaxError); ok {
		return fmt.Errorf("%w at byte %d", err, syntax.Offset)
	}
	return err
}
