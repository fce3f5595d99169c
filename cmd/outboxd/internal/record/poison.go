package record

import (
	"fmt"

	"github.com/outboxd/outboxd/publisher"
)

// The reasons of the *publisher.PoisonError that Format.Record returns. They
// are stable: metrics, listings and alerts use them.
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
	// ReasonBadHeader: the headers column is not a JSON object, or a header's
	// name does not fit into the broker's protocol.
	ReasonBadHeader = "bad_header"
	// ReasonBadRecord: the id or the type does not fit into a message
	// property.
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
