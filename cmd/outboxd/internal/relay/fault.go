package relay

import (
	"errors"
	"fmt"
	"strings"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/publisher"
)

// Class says what the relay does about an error that ended a session.
type Class uint8

const (
	// Retry: open the next session after a short, growing pause. The default.
	Retry Class = iota
	// RetryLate is Retry with a pause that no login throttle minds.
	RetryLate
	// Standby: another relay holds the slot; wait for it.
	Standby
	// Held: the world is in the way of one record; as Retry, and visible.
	Held
	// Poison: one event can never be published; the relay stops in front of it.
	Poison
	// Fatal: only an operator can mend it; the relay stops.
	Fatal
)

// Exit codes of sysexits.h, as far as the relay decides them.
const (
	ExitFailed      = 1  // failed at run time; a poison event
	ExitUnavailable = 69 // a service could not be reached (--fail-fast)
	ExitInvariant   = 70 // something that must never be so
	ExitPermission  = 77
	ExitConfig      = 78
)

// Fault is what the classifier says of an error.
type Fault struct {
	Class Class
	// Code is the stable name of the condition: logs and metrics carry it.
	Code string
	// Target names the topic, exchange or routing key of a Held fault.
	Target string
	// Exit is the process's exit code if the relay stops on it: always for
	// Poison and Fatal, for the others only under FailFast.
	Exit int
	// Fix is what an operator does about it; may be empty.
	Fix string
}

// Codes that are the relay's own; the others are cdc's and the publisher's.
const (
	codeBroker         = "broker_unreachable"
	codeMissingColumns = "missing_columns"
	codePoison         = "poison"
	codePoisonPending  = "poison_pending" // found; what is before it comes first
	codeInvariant      = "invariant"
)

// Classify says what err means to a process that has just started.
func Classify(err error) Fault { return classify(err, history{}) }

// history says what has worked in this process: the login and the checks of
// the database, and the opening of the broker.
type history struct{ source, broker bool }

// classify is the only place that decides what an error means for the relay.
// What is a mistake at the start (a password, the address of a standby) is,
// once it has worked, more likely a change under way, which ends by itself.
//
// The order matters. An error may wrap several of these: a publisher's error
// can carry the guard's, which carries cdc's. What is known of one record comes
// before what is known of a connection, and the default is to retry.
func classify(err error, worked history) Fault {
	var (
		invariant *invariantError
		columns   *MissingColumnsError
		pending   *poisonPending
		poison    *publisher.PoisonError
		held      *publisher.HeldError
		config    *publisher.ConfigError
		source    *cdc.Error
	)
	switch {
	case errors.As(err, &invariant):
		return Fault{Class: Fatal, Code: codeInvariant, Exit: ExitInvariant, Fix: "report this with the log: it is a defect of outboxd"}
	case errors.As(err, &columns):
		return Fault{Class: Fatal, Code: codeMissingColumns, Exit: ExitConfig, Fix: columns.Fix()}
	case errors.As(err, &pending):
		return Fault{Class: Retry, Code: codePoisonPending, Exit: ExitFailed}
	case errors.As(err, &poison):
		return Fault{Class: Poison, Code: codePoison, Target: poison.Reason, Exit: ExitFailed, Fix: poisonFix}
	case errors.As(err, &held):
		return Fault{Class: Held, Code: held.Reason, Target: held.Target, Exit: ExitUnavailable, Fix: held.Fix}
	case errors.As(err, &config):
		return brokerConfigFault(config, worked.broker)
	case errors.As(err, &source):
		return sourceFault(source, worked.source)
	default:
		return Fault{Class: Retry, Code: codeBroker, Exit: ExitUnavailable, Fix: "check the address in --broker and whether the broker runs"}
	}
}

func brokerConfigFault(err *publisher.ConfigError, worked bool) Fault {
	f := Fault{Class: Fatal, Code: "broker_config", Exit: ExitConfig, Fix: "correct --broker"}
	if err.Code == "auth" {
		f = Fault{Class: Fatal, Code: "broker_authentication", Exit: ExitPermission, Fix: "correct the login of --broker: user and password, or token"}
	}
	// The flags have not changed since: a file may have (a certificate that is
	// being renewed), or the broker's users.
	if worked {
		f.Class = RetryLate
	}
	return f
}

func sourceFault(err *cdc.Error, worked bool) Fault {
	f := Fault{Class: Fatal, Code: string(err.Code), Exit: ExitConfig, Fix: err.Fix}
	switch err.Code {
	case cdc.CodeUnreachable, cdc.CodeServerStopping, cdc.CodeLostLead, cdc.CodeWitness, cdc.CodeRetainedWAL, cdc.CodeColumnTypes:
		f.Class, f.Exit = Retry, ExitUnavailable
	case cdc.CodeSlotActive:
		f.Class, f.Exit = Standby, ExitUnavailable
	case cdc.CodeAuth:
		f.Exit = ExitPermission
		if worked {
			f.Class = RetryLate
		}
	case cdc.CodeConfig, cdc.CodeNotPrimary:
		// A file that the connection string names (a certificate and its key) may
		// be about to be replaced; after a failover a name may lead to the demoted
		// server for a while.
		if worked {
			f.Class = RetryLate
		}
	case cdc.CodeSyncStandby:
		// Others change the setting, some of them when a standby fails: nobody
		// restarts a relay for that.
		f.Class = RetryLate
	case cdc.CodePrivilege:
		f.Exit = ExitPermission
	case cdc.CodeMalformedStream:
		f.Exit = ExitInvariant
	}
	return f
}

// replicationLost says that acks can no longer be confirmed in this session,
// or that a server waits for us to let go: the drain is then short.
func replicationLost(err error) bool {
	var source *cdc.Error
	return errors.As(err, &source)
}

// poisonFix is shown when the relay stops in front of an event.
const poisonFix = "raise the limit that the reason names, run with a configuration that can publish the event, or with --poison park-key; it stays in the slot until then"

// PoisonEvent names the event that can never be published as it is. Nothing at
// or behind it has been confirmed.
type PoisonEvent struct {
	ID            string
	Position      cdc.Position
	AggregateType string
	AggregateID   string
	Type          string
	Destination   string // empty when it failed before it had one
	Err           error  // wraps a *publisher.PoisonError
}

// Error leaves out what is not known: of a message that cannot be decoded that
// is everything but the position.
func (e *PoisonEvent) Error() string {
	var b strings.Builder
	b.WriteString("publish event")
	if e.ID != "" {
		b.WriteString(" " + e.ID)
	}
	b.WriteString(" at " + e.Position.String())
	for _, part := range [...]struct{ name, value string }{
		{"aggregate type", e.AggregateType}, {"aggregate id", e.AggregateID}, {"type", e.Type}, {"to", e.Destination},
	} {
		if part.value != "" {
			fmt.Fprintf(&b, ", %s %q", part.name, part.value)
		}
	}
	b.WriteString(": " + e.Err.Error())
	return b.String()
}

func (e *PoisonEvent) Unwrap() error { return e.Err }

// poisonPending says that a poison event was found while something before it
// in the WAL still had to be published.
type poisonPending struct{ event *failure }

// Error does not let Unwrap through to the event: it is not what ended the
// session, and must not be taken for it.
func (e *poisonPending) Error() string {
	return "publish what is before a poison event: " + e.event.err.Error()
}

// StopError is what Run returns when the relay cannot go on.
type StopError struct {
	Fault Fault
	Err   error
}

func (e *StopError) Error() string { return e.Err.Error() }
func (e *StopError) Unwrap() error { return e.Err }

// invariantError marks what can only be a defect of this program or of a
// backend: it stops the relay before it can do harm.
type invariantError struct {
	kind   string // "ack", "order"
	detail string
}

func (e *invariantError) Error() string { return "invariant " + e.kind + " broken: " + e.detail }
