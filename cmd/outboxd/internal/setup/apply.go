package setup

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/migrations"
)

// Apply sets up what is missing and writes to out what it did. It may be run
// any number of times. Its error is an *cdc.Error or Problems where the cause
// has a name; unless it says otherwise nothing was changed. After any other
// error the next run goes on where this one stopped.
func Apply(ctx context.Context, o Options, out io.Writer) error {
	s, err := o.settings()
	if err != nil {
		return err
	}
	report := &reporter{out: out, slot: s.Slot}
	s.config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { report.note("the server says: " + n.Message) }
	conn, err := connect(ctx, s.config)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	return named(apply(ctx, conn, s, report))
}

func apply(ctx context.Context, conn *pgx.Conn, s *settings, report *reporter) error {
	if err := exclusive(ctx, conn, report); err != nil {
		return err
	}
	st, err := inspect(ctx, conn, s)
	if err != nil {
		return err
	}
	if err := check(s, st).err(); err != nil {
		return err
	}
	steps, err := plan(s, st)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "SET lock_timeout = '"+ddlLockTimeout+"'"); err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	for _, step := range steps {
		if step.sql == "" {
			report.did(alreadyThere, step.name)
			continue
		}
		if err := run(ctx, conn, s, st, step, report); err != nil {
			return err
		}
		report.did(step.did, step.name)
	}
	// From here on a change of the publication is noticed, also before the
	// first session.
	pipeline := cdc.Config{Pipeline: s.Pipeline, Slot: s.Slot, Publication: s.Publication, Table: s.Table()}
	if err := cdc.Seal(ctx, conn, pipeline); err != nil {
		return err
	}
	for _, note := range notes(s, st) {
		report.note(note)
	}
	return nil
}

func run(ctx context.Context, conn *pgx.Conn, s *settings, st *state, step step, report *reporter) error {
	switch step.kind {
	case migration:
		return migrate(ctx, s)
	case makeSlot:
		return createSlot(ctx, conn, s, st.server.major(), report)
	}
	// Many statements in one message: the server makes them one transaction.
	if _, err := conn.PgConn().Exec(ctx, step.sql).ReadAll(); err != nil {
		return fmt.Errorf("create %s: %w", step.name, err)
	}
	return nil
}

func migrate(ctx context.Context, s *settings) error {
	db := stdlib.OpenDB(*s.config)
	_, err := migrations.Up(ctx, db)
	return errors.Join(err, db.Close())
}

// notes are what the operator should know, whatever was done.
func notes(s *settings, st *state) []string {
	notes := st.server.notes(s.Slot)
	if st.slot != nil && !st.slot.failover && st.server.major() >= 17 {
		notes = append(notes, fmt.Sprintf("warning: slot %s was made without failover: after a failover of the server it is gone", s.Slot))
	}
	if s.appRole != "" {
		notes = append(notes, forgeryNote(st.server.major()))
	}
	return notes
}

// named gives a missing privilege, which cannot be foreseen in every case, its
// code.
func named(err error) error {
	var pgErr *pgconn.PgError
	var known *cdc.Error
	if errors.As(err, &known) || !errors.As(err, &pgErr) || pgErr.Code != "42501" {
		return err
	}
	return &cdc.Error{Code: cdc.CodePrivilege, Detail: "a privilege is missing", Err: err,
		Fix: "run setup as the owner of the database and the tables, with REPLICATION; or give a DBA the SQL: outboxd setup --print"}
}
