package record

import (
	"fmt"

	"github.com/outboxd/outboxd/publisher"
)

// The reasons of a *publisher.PoisonError that is found before a broker is
// asked. They are stable: metrics, listings and alerts use them. What only a
// broker's protocol forbids (sizes, the names of headers) its backend finds.
const (
	// ReasonMissingKey: the aggregate id is NULL and Options.AllowUnkeyed is
	// not set.
	ReasonMissingKey = "missing_key"
	// ReasonMissingField: the id, the type, or a field that the topic template
	// needs is NULL, or empty where the style forbids that.
	ReasonMissingField = "missing_field"
	// ReasonBadTopic: the template gave a name that no topic can have, or no
	// routing key can be.
	ReasonBadTopic = "bad_topic"
	// ReasonBadHeader: the headers column is not a JSON object.
	ReasonBadHeader = "bad_header"
	// ReasonBadRecord: the bytes of a column are not of its type. Who fills an
	// Event finds that, before Format.Record is called.
	ReasonBadRecord = "bad_record"
)

func poison(reason, format string, args ...any) error {
	return &publisher.PoisonError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

func missingField(f field, value []byte, needed string) error {
	state := "NULL"
	if value != nil {
		state = "empty"
	}
	return poison(ReasonMissingField, "%s is %s; %s", f, state, needed)
}
