package publisher

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is wrapped by what Close fails, and returned by Publish after
	// Close. The broker does not have the record, unless ErrUnknown is wrapped
	// too.
	ErrClosed = errors.New("publisher closed")
	// ErrAborted is wrapped by the outcome of a record that was given up
	// because another one failed before it.
	ErrAborted = errors.New("given up behind a failed record")
	// ErrUnknown is wrapped by an outcome that does not say whether the broker
	// has the record: the connection was lost before the ack.
	ErrUnknown = errors.New("outcome unknown")
)

// PoisonError says that the broker can never take the record because of what
// the record itself is: too large, an illegal name. Nothing that an operator
// does to the broker's state mends it, short of raising a limit.
type PoisonError struct {
	// Reason is a short stable word for metrics and listings: "too_large",
	// "bad_topic", "bad_header", "bad_record".
	Reason string
	// Detail says what was found and what was allowed, with the name of the
	// limit.
	Detail string
	// Err is the broker's own error, or nil when it was found before sending.
	Err error
}

func (e *PoisonError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Detail, e.Err)
	}
	return e.Reason + ": " + e.Detail
}

func (e *PoisonError) Unwrap() error { return e.Err }

// HeldError says that the world, not the record, is in the way: a topic,
// exchange, binding or permission is missing, a queue is full. The record is
// held and tried again, for as long as it takes; nothing is parked or skipped.
type HeldError struct {
	// Reason is a short stable word for metrics: "missing_topic",
	// "missing_exchange", "unroutable", "not_authorized", "refused",
	// "blocked".
	Reason string
	// Target names the topic, exchange or routing key.
	Target string
	// Fix tells an operator what to do.
	Fix string
	// Err is the broker's own error, or nil.
	Err error
}

func (e *HeldError) Error() string {
	s := fmt.Sprintf("%s %q", e.Reason, e.Target)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	return s
}

func (e *HeldError) Unwrap() error { return e.Err }

// ConfigError is returned when a broker cannot be opened because of how it was
// configured (unknown URL parameter, bad certificate file, wrong password).
// Trying again does not mend it.
type ConfigError struct {
	// Code is "config" or "auth".
	Code   string
	Detail string
	Err    error
}

func (e *ConfigError) Error() string {
	if e.Err != nil {
		return e.Detail + ": " + e.Err.Error()
	}
	return e.Detail
}

func (e *ConfigError) Unwrap() error { return e.Err }
