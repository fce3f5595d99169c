package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
)

// TeardownOptions says what to take back.
type TeardownOptions struct {
	// Database, Pipeline, Slot, Publication and Table are as in Options. What
	// the pipeline's witness knows need not be given.
	Database                           string
	Pipeline, Slot, Publication, Table string
	// DropTables also drops the outbox table and its rows, if setup made it
	// and no other pipeline reads it.
	DropTables bool
	// Yes goes on without asking for the pipeline's name.
	Yes bool
}

// removal is one thing that teardown sees to.
type removal struct {
	name  string
	found bool
	keep  string // why it is left alone; empty: it is dropped
	sql   string
}

// Teardown drops the pipeline's slot, then its publication, then what the
// witness knows of it, and writes to out what it did. Unless told not to, it
// first lists that and reads the pipeline's name from in. What is missing is
// reported and no error, unless nothing is there. That, a slot that a relay
// holds, and one that is not a pipeline's of this database are an *cdc.Error,
// and nothing is dropped then.
func Teardown(ctx context.Context, o TeardownOptions, in io.Reader, out io.Writer) error {
	s, err := Options{Database: o.Database, Pipeline: o.Pipeline, Slot: o.Slot, Publication: o.Publication, Table: o.Table}.settings()
	if err != nil {
		return err
	}
	report := &reporter{out: out, slot: s.Slot}
	conn, err := connect(ctx, s.config)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	return named(teardown(ctx, conn, o, s, in, report))
}

func teardown(ctx context.Context, conn *pgx.Conn, o TeardownOptions, s *settings, in io.Reader, report *reporter) error {
	if err := exclusive(ctx, conn, report); err != nil {
		return err
	}
	st, err := inspect(ctx, conn, s)
	if err != nil {
		return err
	}
	if st.witness != nil {
		if err := s.follow(st.witness, o); err != nil {
			return err
		}
		if st, err = inspect(ctx, conn, s); err != nil { // under the names of the witness
			return err
		}
	}
	if err := st.slot.droppable(s.Slot); err != nil {
		return err
	}
	if st.witness == nil && st.slot == nil && st.publication == nil && (st.ring == nil || !o.DropTables) {
		return unknown(ctx, conn, s, st)
	}
	removals, err := removals(ctx, conn, o, s, st)
	if err != nil {
		return err
	}
	if !o.Yes {
		if err := confirm(s.Pipeline, removals, in, report); err != nil {
			return err
		}
	}
	if err := rehearse(ctx, conn, removals); err != nil {
		return err
	}
	return remove(ctx, conn, s, removals, report)
}

// rehearse drops everything but the slot and takes it back: who may not drop
// what comes later must not have dropped the slot, which nothing brings back.
func rehearse(ctx context.Context, conn *pgx.Conn, removals []removal) error {
	script := "BEGIN; SET LOCAL lock_timeout = '" + ddlLockTimeout + "'"
	for _, r := range removals[1:] {
		if r.found && r.keep == "" {
			script += "; " + r.sql
		}
	}
	_, err := conn.PgConn().Exec(ctx, script).ReadAll()
	if _, rollback := conn.Exec(ctx, "ROLLBACK"); err == nil {
		err = rollback
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" {
		return &cdc.Error{Code: cdc.CodePrivilege, Detail: "a privilege is missing, nothing was dropped", Err: err,
			Fix: "run teardown as the owner of the database and the tables, with REPLICATION"}
	}
	if err != nil {
		return fmt.Errorf("try to drop what belongs to the pipeline: %w", err)
	}
	return nil
}

// follow takes the names that the witness has, unless others were given.
func (s *settings) follow(w *witness, o TeardownOptions) error {
	for _, d := range []struct{ what, given, is string }{
		{"slot", o.Slot, w.slot}, {"publication", o.Publication, w.publication},
	} {
		if d.given != "" && d.given != d.is {
			return &cdc.Error{Code: cdc.CodeConfigMismatch, Detail: fmt.Sprintf("the %s of pipeline %s is %s, not %s", d.what, s.Pipeline, d.is, d.given),
				Fix: fmt.Sprintf("leave --%s out", d.what)}
		}
	}
	if o.Table != "" && s.Table() != w.table {
		return &cdc.Error{Code: cdc.CodeConfigMismatch, Detail: fmt.Sprintf("the table of pipeline %s is %s, not %s", s.Pipeline, w.table, s.Table()),
			Fix: "leave --table out"}
	}
	s.Slot, s.Publication = w.slot, w.publication
	s.setTable(w.table)
	return nil
}

// droppable says why a slot that is there must not be dropped.
func (sl *slot) droppable(name string) error {
	if sl == nil {
		return nil
	}
	if e := sl.ours(name); e != nil {
		return e
	}
	if sl.activePID != 0 {
		return slotHeld(name, fmt.Sprintf("process %d of the server (%s)", sl.activePID, sl.holder), nil)
	}
	return nil
}

func slotHeld(name, by string, err error) error {
	return &cdc.Error{Code: cdc.CodeSlotActive, Detail: fmt.Sprintf("slot %q is in use by %s", name, by),
		Fix: "stop the relay first", Err: err}
}

// unknown says that nothing of the pipeline is here, and which others are.
func unknown(ctx context.Context, conn *pgx.Conn, s *settings, st *state) error {
	e := &cdc.Error{Code: cdc.CodeNotSetUp, Detail: fmt.Sprintf("no pipeline %s in database %s; none is set up here", s.Pipeline, st.database),
		Fix: "check --database; after a complete teardown there is nothing to do"}
	if st.schemaVersion <= 0 {
		return e
	}
	var known []string
	if err := conn.QueryRow(ctx, "SELECT coalesce(array_agg(pipeline ORDER BY pipeline), '{}') FROM outboxd.witness").Scan(&known); err != nil {
		return fmt.Errorf("look up other pipelines: %w", err)
	}
	if len(known) > 0 {
		e.Detail = fmt.Sprintf("no pipeline %s in database %s; known here: %s", s.Pipeline, st.database, strings.Join(known, ", "))
		e.Fix = "name one of them with --pipeline"
	}
	return e
}

// removals lists what belongs to the pipeline, the slot first.
func removals(ctx context.Context, conn *pgx.Conn, o TeardownOptions, s *settings, st *state) ([]removal, error) {
	var onPublication, onTable int // other pipelines
	if st.schemaVersion > 0 {
		err := conn.QueryRow(ctx, `SELECT count(*) FILTER (WHERE publication = $2), count(*) FILTER (WHERE outbox_table = $3)
			FROM outboxd.witness WHERE pipeline <> $1`, s.Pipeline, s.Publication, s.Table()).Scan(&onPublication, &onTable)
		if err != nil {
			return nil, fmt.Errorf("look up other pipelines: %w", err)
		}
	}
	publication := removal{name: "publication " + s.Publication, found: st.publication != nil,
		sql: "DROP PUBLICATION " + quote(s.Publication)}
	switch {
	case onPublication > 0:
		publication.keep = "another pipeline reads it"
	case st.publication != nil && (st.publication.others > 0 || st.publication.schemas > 0 || st.publication.allTables):
		publication.keep = "it publishes other tables too"
	}
	parked, err := parkedRemoval(ctx, conn, s, st)
	if err != nil {
		return nil, err
	}
	all := []removal{
		{name: "replication slot " + s.Slot, found: st.slot != nil, sql: fmt.Sprintf("SELECT pg_drop_replication_slot(%s)", literal(s.Slot))},
		publication,
		{name: "pipeline " + s.Pipeline, found: st.witness != nil, sql: "DELETE FROM outboxd.witness WHERE pipeline = " + literal(s.Pipeline)},
		tableRemoval(o, s, st, onTable),
	}
	if parked.found {
		all = slices.Insert(all, len(all)-1, parked)
	}
	return all, nil
}

// parkedSince is the version of the schema that has the table of parked events.
const parkedSince = 2

// parkedRemoval are the pipeline's parked events, and what is left of those that
// were discarded.
func parkedRemoval(ctx context.Context, conn *pgx.Conn, s *settings, st *state) (removal, error) {
	r := removal{sql: "DELETE FROM outboxd.parked WHERE pipeline = " + literal(s.Pipeline)}
	if st.schemaVersion < parkedSince {
		return r, nil
	}
	var rows, parked int
	err := conn.QueryRow(ctx, "SELECT count(*), count(*) FILTER (WHERE state <> 'discarded') FROM outboxd.parked WHERE pipeline = $1", s.Pipeline).Scan(&rows, &parked)
	if err != nil {
		return r, fmt.Errorf("look up parked events: %w", err)
	}
	if r.found = rows > 0; r.found {
		r.name = fmt.Sprintf("%d parked events of pipeline %s, which were not published, and the record of %d discarded ones", parked, s.Pipeline, rows-parked)
	}
	return r, nil
}

func tableRemoval(o TeardownOptions, s *settings, st *state, readers int) removal {
	r := removal{name: fmt.Sprintf("table %s and all rows in it", s.Table()), found: st.table != nil || st.ring != nil}
	switch {
	case !o.DropTables:
		r.keep = "--drop-tables was not given"
	case st.ring == nil:
		r.keep = "setup did not make it"
	case readers > 0:
		r.keep = "another pipeline reads it"
	}
	r.sql = fmt.Sprintf("DROP TABLE IF EXISTS %s; DELETE FROM outboxd.ring WHERE outbox_table = %s", s.sql(), literal(s.Table()))
	for name, table := range st.publishers {
		if table == s.Table() {
			r.sql += "; DROP FUNCTION " + pgx.Identifier{"outboxd", name}.Sanitize()
		}
	}
	return r
}

// confirm lists what is going to happen and asks for the pipeline's name.
func confirm(pipeline string, removals []removal, in io.Reader, report *reporter) error {
	for _, r := range removals {
		if r.found && r.keep == "" {
			report.did("will drop", r.name)
		}
	}
	report.note("Events that are not relayed yet will not be.")
	return Confirm(in, report.out, pipeline, "go on")
}

func remove(ctx context.Context, conn *pgx.Conn, s *settings, removals []removal, report *reporter) error {
	if _, err := conn.Exec(ctx, "SET lock_timeout = '"+ddlLockTimeout+"'"); err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	for _, r := range removals {
		switch {
		case !r.found:
			report.did("not there", r.name)
			continue
		case r.keep != "":
			report.did("kept", fmt.Sprintf("%s (%s)", r.name, r.keep))
			continue
		}
		_, err := conn.PgConn().Exec(ctx, r.sql).ReadAll()
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "55006" {
			return slotHeld(s.Slot, "a relay that has just taken it", err)
		}
		if err != nil {
			return fmt.Errorf("drop %s: %w", r.name, err)
		}
		report.did("dropped", r.name)
	}
	return nil
}
