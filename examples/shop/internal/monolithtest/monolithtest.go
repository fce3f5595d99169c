// Package monolithtest gives the tests of the contexts the shop's database.
package monolithtest

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/examples/shop/internal/monolith"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// outboxTable is the event table as outboxd setup makes it, but for its
// partitions.
const outboxTable = `CREATE TABLE outbox (
	id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text, type text NOT NULL,
	payload json, headers jsonb,
	created_at timestamptz NOT NULL DEFAULT now(), bucket smallint NOT NULL DEFAULT 0,
	seq bigint GENERATED ALWAYS AS IDENTITY, xid xid8 NOT NULL DEFAULT pg_current_xact_id())`

// Open returns a new shop: shelves full, no order, no event. A package that
// calls it has devtest.Main for its TestMain.
func Open(t testing.TB) *pgxpool.Pool {
	t.Helper()
	db, err := pgxpool.New(t.Context(), devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if err := monolith.Create(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	Exec(t, db, outboxTable)
	return db
}

// Exec runs a statement.
func Exec(t testing.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Int returns the one number that a query has for an answer.
func Int(t testing.TB, db *pgxpool.Pool, sql string, args ...any) int {
	t.Helper()
	var n int
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// Events returns the events that were written, each as "key type payload".
func Events(t testing.TB, db *pgxpool.Pool) []string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT concat_ws(' ', aggregateid, type, payload) FROM outbox ORDER BY seq`)
	events, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return events
}
