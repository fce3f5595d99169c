package setup

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
)

// state is what was found in the database. Nil means: it is not there.
type state struct {
	database      string
	server        server
	schemaVersion int64 // -1: no schema
	ring          *retention.Ring
	schema        schema // of the table
	table         *table
	publishers    map[string]string // functions outboxd.publish… → the table that each writes to
	publication   *publication
	slot          *slot
	witness       *witness
	roles         map[string]role
}

// fresh is a database of that server where nothing is set up yet.
func fresh(database string, major int) *state {
	return &state{database: database, schemaVersion: -1,
		schema: schema{exists: true, mayCreate: true},
		server: server{version: major * 10000, walLevel: "logical", replication: true, mayCreate: true, maxSlots: 1}}
}

func inspect(ctx context.Context, conn *pgx.Conn, s *settings) (*state, error) {
	st := &state{database: conn.Config().Database, schemaVersion: -1}
	var err error
	if st.server, err = readServer(ctx, conn); err != nil {
		return nil, err
	}
	if st.schema, err = readTableSchema(ctx, conn, s.Identity); err != nil {
		return nil, err
	}
	if st.table, err = readTable(ctx, conn, s.Identity); err != nil {
		return nil, err
	}
	if st.publication, err = readPublication(ctx, conn, st.server.major(), s, st.table); err != nil {
		return nil, err
	}
	if st.slot, err = readSlot(ctx, conn, st.server.major(), s.Slot); err != nil {
		return nil, err
	}
	if st.roles, err = readRoles(ctx, conn, s.relayRole, s.appRole); err != nil {
		return nil, err
	}
	if err := st.readSchema(ctx, conn, s); err != nil {
		return nil, err
	}
	return st, nil
}

// readSchema reads what is in the schema outboxd, if there is one.
func (st *state) readSchema(ctx context.Context, conn *pgx.Conn, s *settings) error {
	var exists bool
	err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'outboxd' AND tablename = 'schema_version')").Scan(&exists)
	if err != nil {
		return fmt.Errorf("look up schema outboxd: %w", err)
	}
	if !exists {
		return nil
	}
	if err := conn.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM outboxd.schema_version").Scan(&st.schemaVersion); err != nil {
		return fmt.Errorf("read the version of schema outboxd: %w", err)
	}
	if st.schemaVersion == 0 {
		return nil
	}
	ring, ok, err := retention.Read(ctx, conn, s.Table())
	if err != nil {
		return err
	}
	if ok {
		st.ring = &ring
	}
	if st.publishers, err = readPublishers(ctx, conn); err != nil {
		return err
	}
	st.witness, err = readWitness(ctx, conn, s.Pipeline)
	return err
}

// witness is the part of the pipeline's row that setup looks at.
type witness struct {
	systemID, slot, publication, table, acked, updated string
}

func readWitness(ctx context.Context, conn *pgx.Conn, pipeline string) (*witness, error) {
	var w witness
	err := conn.QueryRow(ctx, `SELECT system_id, slot, publication, outbox_table, acked_lsn::text,
		to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')
		FROM outboxd.witness WHERE pipeline = $1`, pipeline).Scan(
		&w.systemID, &w.slot, &w.publication, &w.table, &w.acked, &w.updated)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the witness of pipeline %s: %w", pipeline, err)
	}
	return &w, nil
}
