package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/admin"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// Exit codes that are not the relay's.
const (
	exitUsage = 2
	exitLater = 75
)

// failure is what an error means for who started the program.
type failure struct {
	exit int
	code string // of the condition; may be empty
	fix  string // may be empty
}

// explain is the program's table of exit codes; for what a relay can meet, that
// is the relay's.
func explain(err error) failure {
	var (
		usage    usageError
		config   *configError
		listen   *admin.ListenError
		stop     *relay.StopError
		problems setup.Problems
		named    *cdc.Error
	)
	switch {
	case errors.As(err, &usage):
		return failure{exit: exitUsage, code: "usage"}
	case errors.As(err, &config):
		return failure{exit: relay.ExitConfig, code: "configuration"}
	case errors.As(err, &listen):
		return failure{exit: relay.ExitConfig, code: "metrics_address", fix: listen.Fix()}
	case errors.As(err, &stop):
		return failure{exit: stop.Fault.Exit, code: stop.Fault.Code, fix: stop.Fault.Fix}
	case errors.As(err, &problems):
		// The text names each with its fix.
		return failure{exit: conditionExit(problems[0].Code, problems[0])}
	case errors.As(err, &named):
		return failure{exit: conditionExit(named.Code, named), code: string(named.Code), fix: named.Fix}
	default:
		return failure{exit: relay.ExitFailed}
	}
}

// conditionExit is the exit code of a condition of the database that a command
// met.
func conditionExit(code cdc.Code, err error) int {
	switch code {
	case setup.CodeUnconfirmed, parked.CodeNoMatch, parked.CodeNotHead, parked.CodeAmbiguous:
		return relay.ExitFailed
	case cdc.CodeSlotActive, setup.CodeSlotTimeout:
		return exitLater
	default:
		return relay.Classify(err).Exit
	}
}

// named is the text of err, with the code in front if it does not say it.
func (f failure) named(err error) string {
	text := err.Error()
	if f.code != "" && f.code != "usage" && !strings.Contains(text, f.code) {
		text = f.code + ": " + text
	}
	return text
}

// reportError writes err as short lines (what, then how to mend it), unless the
// log has it already, and returns the exit code.
func reportError(w io.Writer, err error) int {
	f := explain(err)
	var logged loggedError
	if errors.As(err, &logged) {
		return f.exit
	}
	text := f.named(err)
	fmt.Fprintf(w, "outboxd: %s\n", strings.ReplaceAll(text, "\n", "\n  "))
	if f.fix != "" && !strings.Contains(text, f.fix) {
		fmt.Fprintf(w, "  fix: %s\n", strings.ReplaceAll(f.fix, "\n", "\n  "))
	}
	return f.exit
}

// loggedError marks an error that the log has told of.
type loggedError struct{ error }

func (e loggedError) Unwrap() error { return e.error }

// logError tells the log of what ends the program: who reads logs as JSON does
// not read lines of text beside it.
func logError(log *slog.Logger, err error) error {
	if err == nil {
		return nil
	}
	f := explain(err)
	log.Error("giving up", "code", f.code, "error", err.Error(), "fix", f.fix, "exit", f.exit)
	return loggedError{err}
}
