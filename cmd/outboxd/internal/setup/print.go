package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/outboxd/outboxd/cdc"
)

// Print writes to out the SQL that Apply would run, for somebody else to run,
// and changes nothing. Without a connection it writes for a database where
// nothing is set up and for the version of Options.ServerVersion, and says so.
func Print(ctx context.Context, o Options, out io.Writer) error {
	s, err := o.settings()
	if err != nil {
		return err
	}
	st, assumed, err := look(ctx, s)
	if err != nil {
		return err
	}
	// Who runs the SQL has other privileges than we, and may first do what the
	// comments say.
	problems := check(s, st)
	var prerequisites []string
	problems = slices.DeleteFunc(problems, func(e *cdc.Error) bool {
		switch e.Code {
		case cdc.CodeWALLevel, CodeRole, CodeServerLimit:
			prerequisites = append(prerequisites, e.Fix)
			return true
		case cdc.CodePrivilege:
			return true
		}
		return false
	})
	if err := problems.err(); err != nil {
		return err
	}
	steps, err := plan(s, st)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, script(s, st, steps, assumed, prerequisites))
	return err
}

// look inspects the database, or says why it assumed a fresh one instead.
func look(ctx context.Context, s *settings) (st *state, assumed string, err error) {
	conn, err := connect(ctx, s.config)
	if err != nil {
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		st = fresh(s.config.Database, s.serverVersion)
		st.roles = map[string]role{s.relayRole: {login: true, replication: true}, s.appRole: {}}
		if s.columns.String() != "" {
			return nil, "", errors.Join(errors.New("--columns describes an existing table: to print the SQL for it the database must be reachable"), err)
		}
		return st, err.Error(), nil
	}
	defer closeConn(ctx, conn)
	st, err = inspect(ctx, conn, s)
	return st, "", err
}

func script(s *settings, st *state, steps []step, assumed string, prerequisites []string) string {
	var b strings.Builder
	comment := func(format string, args ...any) {
		for line := range strings.Lines(fmt.Sprintf(format, args...)) {
			fmt.Fprintf(&b, "-- %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	comment("outboxd setup of pipeline %s in database %s", s.Pipeline, st.database)
	comment("For psql -v ON_ERROR_STOP=1 -f FILE, not in one transaction, as a superuser or as the\nowner of the database and its tables with REPLICATION.")
	if assumed != "" {
		comment("The database was not reached (%s).", assumed)
		comment("ASSUMED: PostgreSQL %d (--server-version), and nothing is set up yet.", st.server.major())
	} else {
		comment("Written for PostgreSQL %d.%d and what is there now.", st.server.major(), st.server.version%10000)
	}
	for _, p := range prerequisites {
		comment("FIRST: %s", p)
	}
	for _, step := range steps {
		b.WriteString("\n")
		if step.sql == "" {
			comment("%s: %s", alreadyThere, step.name)
			continue
		}
		comment("%s", step.name)
		if step.kind == makeSlot {
			comment("It waits for every transaction of the cluster that is open now to end.")
			b.WriteString(step.sql)
			continue
		}
		fmt.Fprintf(&b, "BEGIN;\n%sCOMMIT;\n", step.sql)
	}
	b.WriteString("\n")
	for _, note := range notes(s, st) {
		if assumed == "" {
			comment("%s", note)
		}
	}
	return b.String()
}
