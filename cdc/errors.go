package cdc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Code names a condition that stops or delays a session. Codes are stable:
// logs, metrics and documentation use them.
type Code string

const (
	// To be retried.
	CodeUnreachable    Code = "database_unreachable" // no connection, or it was lost
	CodeServerStopping Code = "server_stopping"      // the server shuts down; drain at most 2 s
	CodeSlotActive     Code = "slot_active"          // another relay holds the slot: stand by
	CodeLostLead       Code = "lost_lead"            // another relay took over while this one was stalled
	CodeWitness        Code = "witness_unwritable"   // the witness could not be written for longer than wal_sender_timeout
	CodeRetainedWAL    Code = "retained_wal"         // the slot keeps more than MaxRetainedWAL: it is let go of, to be dropped
	CodeColumnTypes    Code = "column_types"         // a column's type has no binary format that is read here: the next session reads text
	CodeSyncStandby    Code = "synchronous_standby"  // commits would wait for the relay, as for a standby

	// To be retried while running, fatal at start.
	CodeAuth Code = "authentication"

	// Fatal: configuration.
	CodeConfig          Code = "configuration"
	CodeDatabaseMissing Code = "database_missing"
	CodeWALLevel        Code = "wal_level"
	CodePrivilege       Code = "privilege"
	CodeVersion         Code = "server_version"
	CodeNotSetUp        Code = "not_set_up"      // the outboxd schema is missing
	CodeNotPrimary      Code = "not_primary"     // connected to a standby
	CodeConfigMismatch  Code = "config_mismatch" // the leader of this pipeline runs with another configuration
	CodeSlotMissing     Code = "slot_missing"
	CodeSlotWrong       Code = "slot_wrong" // another plugin or database
	CodePublication     Code = "publication_missing"
	CodeColumns         Code = "missing_columns" // the table, as it is published, lacks what CheckColumns wants
	CodePublicationGap  Code = "publication_gap" // the publication does not, or for a while did not, cover the table
	CodeSlotLost        Code = "slot_lost"       // the server removed WAL that the slot needs
	CodeSlotDropped     Code = "slot_dropped"    // by us: it kept more than MaxRetainedWAL
	CodeSlotForeign     Code = "slot_foreign"    // recreated, or advanced by someone else
	CodeSystemChanged   Code = "system_changed"  // another system identifier
	CodeRestored        Code = "witness_changed" // the witness is not what this process wrote
	CodeMalformedStream Code = "malformed_stream"

	// Of adopt, replay and skip.
	CodeNoGap   Code = "no_gap"        // there is no gap that waits for a replay
	CodeSkipped Code = "skip_position" // nothing can be skipped there
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

// asError returns err as an *Error; one that nobody named is taken for a lost
// connection and so for something to retry.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeUnreachable, Detail: "talk to the database", Err: err}
}

func malformed(err error) *Error {
	return &Error{Code: CodeMalformedStream, Detail: "decode the stream", Err: err,
		Fix: "this is a defect of outboxd or of the server: please report it with the server's version"}
}

// startError names why START_REPLICATION was refused.
func startError(cfg *Config, err error) *Error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return &Error{Code: CodeUnreachable, Detail: "start replication", Err: err}
	}
	switch pgErr.Code {
	case "55006":
		return &Error{Code: CodeSlotActive, Detail: pgErr.Message}
	case "42704": // dropped since we looked
		return &Error{Code: CodeSlotMissing, Detail: pgErr.Message, Fix: newSlotFix(cfg)}
	case "55000":
		return &Error{Code: CodeSlotLost, Detail: fmt.Sprintf("slot %q cannot be read any more: %s", cfg.Slot, pgErr.Message),
			Fix: newSlotFix(cfg)}
	case "42501":
		return &Error{Code: CodePrivilege, Detail: pgErr.Message, Fix: replicationFix(err)}
	}
	return &Error{Code: CodeUnreachable, Detail: "start replication", Err: err}
}

// streamError names why the server ended the stream. What made a slot unusable
// is told by the checks of the next session.
func streamError(cfg *Config, err *pgconn.PgError) *Error {
	// In the middle of a stream nothing else can be undefined; the text may be
	// in any language.
	if err.Code == "42704" {
		return &Error{Code: CodePublication, Detail: err.Message,
			Fix: "the publication was dropped, or created after the slot's position. Where it is missing: " + createPublication(cfg) + ". " + newSlotFix(cfg)}
	}
	return &Error{Code: CodeUnreachable, Detail: "the server ended the stream", Err: err}
}

// quoteLiteral doubles the single quotes of a string for a replication
// command, whose literals know no other escape.
func quoteLiteral(s string) string { return strings.ReplaceAll(s, "'", "''") }
