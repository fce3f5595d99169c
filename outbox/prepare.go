package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
)

// row is an event ready to be sent: complete, encoded and valid.
type row struct {
	id            ID
	aggregateType string
	aggregateID   string
	typ           string
	payload       []byte
	null          bool // the payload is NULL
	headers       []Header
}

// target is where rows go, as far as it decides what is valid.
type target uint8

const (
	forTable target = iota
	forMessage
)

// prepare turns events into rows, or reports all that is wrong with them.
func (t Table) prepare(ctx context.Context, events []Event, to target) ([]row, error) {
	if len(events) == 0 {
		return nil, nil
	}
	c := checker{table: t, to: to}
	c.checkTable()
	propagated := t.propagated(ctx)
	rows := make([]row, len(events))
	for i := range events {
		rows[i] = c.row(i, &events[i], propagated)
	}
	c.checkIDs(events)
	if len(c.problems) > 0 {
		return nil, &ValidationError{Problems: c.problems}
	}
	for i := range rows {
		// Last, so that events refused use up no ids, and in order, so that
		// ids made here sort as their events do.
		if rows[i].id.IsZero() {
			rows[i].id = NewID()
		}
	}
	return rows, nil
}

func (t Table) propagated(ctx context.Context) map[string]string {
	if t.Propagate == nil {
		return nil
	}
	headers := make(map[string]string)
	t.Propagate(ctx, func(name, value string) { headers[name] = value })
	return headers
}

// row checks and encodes one event.
func (c *checker) row(i int, e *Event, propagated map[string]string) row {
	c.index, c.event = i, e
	r := row{
		id:            e.ID,
		aggregateType: e.AggregateType,
		aggregateID:   e.AggregateID,
		typ:           e.Type,
		headers:       mergeHeaders(propagated, e.Headers),
	}
	c.checkName("AggregateType", e.AggregateType)
	c.checkName("AggregateID", e.AggregateID)
	c.checkName("Type", e.Type)
	c.checkHeaders(r.headers)
	payload, raw, err := encodePayload(e.Payload)
	if err != nil {
		c.add("Payload", "cannot be marshalled: %v", err)
		return r
	}
	r.payload, r.null = payload, payload == nil
	if !r.null {
		c.checkPayload(payload, raw)
	}
	return r
}

// encodePayload returns the bytes of a payload, nil for NULL, and whether they
// are the caller's own.
func encodePayload(v any) (payload []byte, raw bool, err error) {
	switch v := v.(type) {
	case nil:
		return nil, true, nil
	case []byte:
		return v, true, nil
	case json.RawMessage:
		return v, true, nil
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, false, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), false, nil
}

// mergeHeaders returns both sets sorted by name; own wins.
func mergeHeaders(propagated, own map[string]string) []Header {
	if len(propagated)+len(own) == 0 {
		return nil
	}
	merged := maps.Clone(own)
	if merged == nil {
		merged = make(map[string]string, len(propagated))
	}
	for name, value := range propagated {
		if _, ok := merged[name]; !ok {
			merged[name] = value
		}
	}
	headers := make([]Header, 0, len(merged))
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		headers = append(headers, Header{Name: name, Value: merged[name]})
	}
	return headers
}
