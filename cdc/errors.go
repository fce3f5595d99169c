package cdc

import "fmt"

// Code names a condition that stops or delays a session. Codes are stable:
// logs, metrics and documentation use them.
type Code string

const (
	// To be retried.
	CodeUnreachable    Code = "database_unreachable" // no connection, or it was lost
	CodeServerStopping Code = "server_stopping"      // the server shuts down; drain at most 2 s
	CodeSlotActive     Code = "slot_active"          // another relay holds the slot: stand by
	CodeLostLead       Code = "lost_lead"            // another relay took over while this one was stalled

	// To be retried while running, fatal at start.
	CodeAuth Code = "authentication"

	// Fatal: configuration of the server.
	CodeWALLevel        Code = "wal_level"
	CodePrivilege       Code = "privilege"
	CodeVersion         Code = "server_version"
	CodeNotSetUp        Code = "not_set_up"      // the outboxd schema is missing
	CodeNotPrimary      Code = "not_primary"     // connected to a standby
	CodeConfigMismatch  Code = "config_mismatch" // the leader of this pipeline runs with another configuration
	CodeSlotMissing     Code = "slot_missing"
	CodeSlotWrong       Code = "slot_wrong" // another plugin or database
	CodePublication     Code = "publication_missing"
	CodePublicationGap  Code = "publication_gap" // the publication does not, or for a while did not, cover the table
	CodeSlotLost        Code = "slot_lost"       // the server removed WAL that the slot needs
	CodeSlotForeign     Code = "slot_foreign"    // recreated, or advanced by someone else
	CodeSystemChanged   Code = "system_changed"  // another system identifier
	CodeRestored        Code = "witness_changed" // the witness is not what this process wrote
	CodeMalformedStream Code = "malformed_stream"
)

// Error is a named condition with what it takes to mend it.
type Error struct {
	Code Code
	// Detail says what was found, where.
	Detail string
	// Fix is what an operator does about it; empty when waiting is all.
	Fix string
	Err error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s", e.Code, e.Detail)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }
