package outboxtest

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/outbox"
)

// Table is an event table other than the default one:
//
//	outboxtest.Table(shopEvents).RequireWritten(t, ctx, tx, …)
type Table outbox.Table

// Written is an event as the table has it.
type Written struct {
	ID            outbox.ID
	AggregateType string
	AggregateID   string
	Type          string
	// Payload is nil for NULL, and the text or bytes of the column otherwise.
	Payload []byte
	// Headers is nil for NULL.
	Headers []outbox.Header
}

// Events returns the events that tx has written to the default table so far,
// oldest first.
func Events(t testing.TB, ctx context.Context, tx pgx.Tx) []Written {
	t.Helper()
	return Table{}.Events(t, ctx, tx)
}

// EventsSQL is Events for database/sql.
func EventsSQL(t testing.TB, ctx context.Context, tx *sql.Tx) []Written {
	t.Helper()
	return Table{}.EventsSQL(t, ctx, tx)
}

// Events returns the events that tx has written to the table so far, oldest
// first.
func (table Table) Events(t testing.TB, ctx context.Context, tx pgx.Tx) []Written {
	t.Helper()
	return table.events(t, queryPgx(ctx, tx))
}

// EventsSQL is Events for database/sql.
func (table Table) EventsSQL(t testing.TB, ctx context.Context, tx *sql.Tx) []Written {
	t.Helper()
	return table.events(t, querySQL(ctx, tx))
}

// queryFunc runs a query and calls scan for each row.
type queryFunc func(scan func(scanFunc) error, query string, args ...any) error

type scanFunc func(dest ...any) error

func queryPgx(ctx context.Context, tx pgx.Tx) queryFunc {
	return func(scan func(scanFunc) error, query string, args ...any) error {
		r, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer r.Close()
		return scanAll(r, scan)
	}
}

func querySQL(ctx context.Context, tx *sql.Tx) queryFunc {
	return func(scan func(scanFunc) error, query string, args ...any) error {
		r, err := tx.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer r.Close()
		return scanAll(r, scan)
	}
}

// rows is what pgx.Rows and *sql.Rows agree on.
type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
}

func scanAll(r rows, scan func(scanFunc) error) error {
	for r.Next() {
		if err := scan(r.Scan); err != nil {
			return err
		}
	}
	return r.Err()
}

func (table Table) events(t testing.TB, query queryFunc) []Written {
	t.Helper()
	order, err := table.orderColumn(query)
	if err != nil {
		t.Fatalf("outboxtest: look up the columns of table %s: %v", table.name(), err)
	}
	written, err := table.read(query, order)
	if err != nil {
		t.Fatalf("outboxtest: read table %s: %v", table.name(), err)
	}
	return written
}

func (table Table) name() string { return strings.Join(outbox.Table(table).Identifier(), ".") }

// orderColumn returns what to sort by: seq where the table has it, else the
// place in the table, which is the order of insertion as long as the table has no
// partitions and nothing in it was deleted and vacuumed.
func (table Table) orderColumn(query queryFunc) (string, error) {
	order := "ctid"
	err := query(func(scan scanFunc) error { return scan(&order) },
		`SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = 'seq'`,
		outbox.Table(table).Identifier().Sanitize())
	return order, err
}

// ownRows is true for rows that the transaction itself has inserted. A row that
// is visible although the transaction that inserted it is still in progress can
// only be ours: its xmin is our own id or, in a savepoint, a newer one. Older
// rows are out by their distance, so that the status is never asked of an id
// too old to have one (unless a row is two billion transactions old). xmin is
// the low 32 bits of an id.
const (
	ownID   = `(SELECT pg_current_xact_id_if_assigned()::text::bigint AS xid) AS own`
	ahead   = `((event.xmin::text::bigint - own.xid) & 4294967295)`
	ownRows = `CASE WHEN ` + ahead + ` < 2147483648
		THEN pg_xact_status((own.xid + ` + ahead + `)::text::xid8) = 'in progress' ELSE false END`
)

func (table Table) read(query queryFunc, order string) ([]Written, error) {
	c := table.Columns.WithDefaults()
	columns := make([]string, 6)
	for i, name := range []string{c.ID, c.AggregateType, c.AggregateID, c.Type, c.Payload, c.Headers} {
		columns[i] = pgx.Identifier{"event", name}.Sanitize() + "::text"
	}
	if c.Headers == outbox.NoColumn {
		columns[5] = "NULL::text"
	}
	if table.Payload == outbox.Bytea {
		columns[4] = "encode(" + pgx.Identifier{"event", c.Payload}.Sanitize() + ", 'hex')"
	}
	var written []Written
	err := query(func(scan scanFunc) error {
		w, err := table.scan(scan)
		written = append(written, w)
		return err
	}, fmt.Sprintf("SELECT %s FROM %s AS event, %s WHERE %s ORDER BY event.%s", strings.Join(columns, ", "),
		outbox.Table(table).Identifier().Sanitize(), ownID, ownRows, order))
	return written, err
}

func (table Table) scan(scan scanFunc) (Written, error) {
	var w Written
	var aggregateType, aggregateID, typ, payload, headers sql.NullString
	if err := scan(&w.ID, &aggregateType, &aggregateID, &typ, &payload, &headers); err != nil {
		return w, err
	}
	w.AggregateType, w.AggregateID, w.Type = aggregateType.String, aggregateID.String, typ.String
	var err error
	if payload.Valid {
		w.Payload = []byte(payload.String)
		if table.Payload == outbox.Bytea {
			w.Payload, err = hex.DecodeString(payload.String)
		}
	}
	if err == nil && headers.Valid {
		w.Headers, err = outbox.DecodeHeaders([]byte(headers.String))
	}
	return w, err
}
