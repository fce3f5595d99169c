package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// mended completes the commands in the fixes of err, so that they can be run as
// they stand.
func (o *pipelineOptions) mended(err error, id setup.Identity) error {
	var stop *relay.StopError
	var problems setup.Problems
	var one *cdc.Error
	switch {
	case errors.As(err, &stop):
		stop.Fault.Fix = o.complete(stop.Fault.Fix, id)
	case errors.As(err, &problems):
		for _, p := range problems {
			p.Fix = o.complete(p.Fix, id)
		}
	case errors.As(err, &one):
		one.Fix = o.complete(one.Fix, id)
	}
	return err
}

// complete adds to the commands in a fix what it takes to mean the same
// pipeline in the same database.
func (o *pipelineOptions) complete(fix string, id setup.Identity) string {
	commands := regexp.MustCompile(`outboxd (setup|adopt|replay|skip|teardown|parked [a-z]+) --pipeline ` + regexp.QuoteMeta(id.Pipeline) + `\b`)
	return commands.ReplaceAllStringFunc(fix, func(command string) string {
		return command + o.arguments(strings.Fields(command)[1], id)
	})
}

// arguments are those that a command needs beside the pipeline's name. What a
// variable said is left out: it is there for the next command as well, and may
// be a secret. So is what the file says, if the command is told of the file.
// Teardown has the names from the witness, and what is parked needs none.
func (o *pipelineOptions) arguments(command string, id setup.Identity) string {
	var b strings.Builder
	add := func(flag, value string) { fmt.Fprintf(&b, " --%s %s", flag, shellWord(value)) }
	standard := "outboxd_" + id.Pipeline
	for _, name := range [...]struct{ flag, value, standard string }{
		{"slot", id.Slot, standard}, {"publication", id.Publication, standard}, {"table", id.Table(), setup.DefaultTable},
	} {
		if command != "teardown" && command != "parked" && name.value != name.standard && o.origins[name.flag] != fromFile {
			add(name.flag, name.value)
		}
	}
	if command == "setup" && o.columns != "" && o.origins["columns"] != fromFile {
		add("columns", o.columns)
	}
	for _, source := range [...]struct{ flag, value string }{
		{"config", o.config}, {"database-file", o.databaseFile}, {"database", withoutPassword(o.database)},
	} {
		if o.origins[source.flag] == fromFlag {
			add(source.flag, source.value)
		}
	}
	return b.String()
}

// withoutPassword returns a connection string or URL without its secrets.
func withoutPassword(database string) string {
	scheme, rest, isURL := strings.Cut(database, "://")
	if at := strings.LastIndexByte(rest, '@'); isURL && at >= 0 {
		user, _, _ := strings.Cut(rest[:at], ":")
		database = scheme + "://" + user + rest[at:]
	}
	return strings.TrimSpace(secretParameter.ReplaceAllString(database, ""))
}

// shellWord quotes a value so that a shell takes it for one word.
func shellWord(value string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_.-=,:/@", r)
	}
	if value != "" && strings.TrimFunc(value, plain) == "" {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
