package inbound

import (
	"strings"
	"time"
)

// attribute takes one header of the record. The two brokers' bindings of
// CloudEvents differ in the prefix. Unknown headers are the writer's business.
func (e *Event) attribute(prefix, name, value string) {
	name, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return
	}
	switch name {
	case "id":
		e.ID = value
	case "subject":
		e.Subject = value
	case "type":
		e.Type = value
	case "aggregatetype":
		e.AggregateType = value
	case "sequence":
		e.Position = value
	case "time":
		// outboxd writes RFC 3339; a zero time is good enough for what is not.
		e.Time, _ = time.Parse(time.RFC3339Nano, value)
	}
}
