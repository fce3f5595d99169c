package outbox_test

import (
	"context"
	"database/sql"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// createOutbox is the event table as the migrations make it, but for its
// partitions.
const createOutbox = `CREATE TABLE outbox (
	id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text, type text NOT NULL,
	payload json, headers jsonb,
	created_at timestamptz NOT NULL DEFAULT now(), bucket smallint NOT NULL DEFAULT 0,
	seq bigint GENERATED ALWAYS AS IDENTITY, xid xid8 NOT NULL DEFAULT pg_current_xact_id())`

// connect connects to a new database, in which it runs ddl.
func connect(t testing.TB, ddl ...string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	for _, statement := range ddl {
		mustExec(t, conn, statement)
	}
	return conn
}

func mustExec(t testing.TB, conn *pgx.Conn, query string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func begin(t testing.TB, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func commit(t testing.TB, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// writer is one of the ways to write, as a function that commits.
type writer struct {
	name  string
	write func(outbox.Table, ...outbox.Event) ([]outbox.ID, error)
	emit  func(outbox.Table, ...outbox.Event) ([]outbox.ID, error)
}

// writers returns a writer for each supported kind of driver, on the database
// of conn.
func writers(t *testing.T, conn *pgx.Conn) []writer {
	return []writer{
		{
			name: "pgx",
			write: func(table outbox.Table, events ...outbox.Event) ([]outbox.ID, error) {
				return inPgx(t, conn, events, table.Write)
			},
			emit: func(table outbox.Table, events ...outbox.Event) ([]outbox.ID, error) {
				return inPgx(t, conn, events, table.Emit)
			},
		},
		sqlWriter(t, conn, "pgx"),
		sqlWriter(t, conn, "postgres"),
	}
}

// openSQL opens the database of conn with a driver of database/sql.
func openSQL(t *testing.T, conn *pgx.Conn, driver string) *sql.DB {
	t.Helper()
	at, err := url.Parse(conn.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	query := at.Query()
	query.Set("sslmode", "disable") // lib/pq would insist on TLS
	at.RawQuery = query.Encode()
	db, err := sql.Open(driver, at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func sqlWriter(t *testing.T, conn *pgx.Conn, driver string) writer {
	db := openSQL(t, conn, driver)
	return writer{
		name: "database/sql with " + driver,
		write: func(table outbox.Table, events ...outbox.Event) ([]outbox.ID, error) {
			return inSQL(t, db, events, table.WriteSQL)
		},
		emit: func(table outbox.Table, events ...outbox.Event) ([]outbox.ID, error) {
			return inSQL(t, db, events, table.EmitSQL)
		},
	}
}

func inPgx(t *testing.T, conn *pgx.Conn, events []outbox.Event,
	f func(context.Context, pgx.Tx, ...outbox.Event) ([]outbox.ID, error),
) (ids []outbox.ID, err error) {
	return ids, pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		ids, err = f(t.Context(), tx, events...)
		return err
	})
}

func inSQL(t *testing.T, db *sql.DB, events []outbox.Event,
	f func(context.Context, *sql.Tx, ...outbox.Event) ([]outbox.ID, error),
) ([]outbox.ID, error) {
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	ids, err := f(t.Context(), tx, events...)
	if err != nil {
		return nil, err
	}
	return ids, tx.Commit()
}

// stored is a row of an event table, with its values as text.
type stored struct {
	ID, AggregateType, AggregateID, Type string
	Payload, Headers                     *string
}

// readAll returns what query gives: the six columns of stored, as text.
func readAll(t *testing.T, conn *pgx.Conn, query string) []stored {
	t.Helper()
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const selectOutbox = `SELECT id::text, aggregatetype, aggregateid, type, payload::text, headers::text
	FROM outbox ORDER BY seq`

func text(p *string) string {
	if p == nil {
		return "NULL"
	}
	return *p
}

// order is a valid event with the given payload.
func order(payload any) outbox.Event {
	return outbox.Event{AggregateType: "order", AggregateID: "42", Type: "order.placed", Payload: payload}
}
