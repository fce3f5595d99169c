package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Write inserts events into the table within tx, in one round trip whatever
// their number, and returns their ids in the same order. They are published in
// this order if and when tx commits.
//
// A *ValidationError means that nothing was sent and tx is as good as before.
// Any other error comes from the server or the connection: PostgreSQL has then
// aborted tx, up to the last savepoint.
//
// The statement runs in pgx.QueryExecModeExec whatever the connection's
// default is: one round trip from the first call on, and no named prepared
// statement, so that it works through PgBouncer's transaction pooling.
func (t Table) Write(ctx context.Context, tx pgx.Tx, events ...Event) ([]ID, error) {
	return t.write(ctx, pgxExec(tx), events)
}

// WriteSQL is Write for database/sql, with any driver for PostgreSQL. The
// number of round trips is the driver's: pgx's takes one, and one more for
// each connection's first use; lib/pq takes two without binary_parameters=yes.
func (t Table) WriteSQL(ctx context.Context, tx *sql.Tx, events ...Event) ([]ID, error) {
	return t.write(ctx, sqlExec(tx), events)
}

// Write is Table.Write for the default table.
func Write(ctx context.Context, tx pgx.Tx, events ...Event) ([]ID, error) {
	return Table{}.Write(ctx, tx, events...)
}

// WriteSQL is Table.WriteSQL for the default table.
func WriteSQL(ctx context.Context, tx *sql.Tx, events ...Event) ([]ID, error) {
	return Table{}.WriteSQL(ctx, tx, events...)
}

// execFunc runs one statement within a transaction. All arguments are strings
// or nil: the two types that every driver sends the same way.
type execFunc func(ctx context.Context, query string, args ...any) error

func pgxExec(tx pgx.Tx) execFunc {
	return func(ctx context.Context, query string, args ...any) error {
		_, err := tx.Exec(ctx, query, append([]any{pgx.QueryExecModeExec}, args...)...)
		return err
	}
}

func sqlExec(tx *sql.Tx) execFunc {
	return func(ctx context.Context, query string, args ...any) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	}
}

func (t Table) write(ctx context.Context, exec execFunc, events []Event) ([]ID, error) {
	rows, err := t.prepare(ctx, events, forTable)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	query, args := t.insertOne(), rows[0].columns(t)
	if len(rows) > 1 {
		query, args = t.insertMany(), arrays(t, rows)
	}
	if err := exec(ctx, query, args...); err != nil {
		return nil, fmt.Errorf("outbox: write %s to table %s%s: %w",
			counted(len(rows), "event"), strings.Join(t.Identifier(), "."), hint(err), err)
	}
	return ids(rows), nil
}

// columns returns the row as arguments of insertOne.
func (r *row) columns(t Table) []any {
	args := []any{r.id.String(), r.aggregateType, r.aggregateID, r.typ, nil}
	if !r.null {
		args[4] = payloadText(t.payloadType(), r.payload)
	}
	if !t.hasHeaders() {
		return args
	}
	if len(r.headers) == 0 {
		return append(args, nil)
	}
	return append(args, string(appendHeaders(nil, r.headers)))
}

// arrays returns the rows as arguments of insertMany: column by column, each
// an array in PostgreSQL's text form.
func arrays(t Table, rows []row) []any {
	columns := make([]arrayText, len(t.Columns.names()))
	for i := range rows {
		for c, value := range rows[i].columns(t) {
			if text, ok := value.(string); ok {
				columns[c].add(text)
			} else {
				columns[c].addNull()
			}
		}
	}
	args := make([]any, len(columns))
	for i := range columns {
		args[i] = columns[i].String()
	}
	return args
}

func ids(rows []row) []ID {
	ids := make([]ID, len(rows))
	for i := range rows {
		ids[i] = rows[i].id
	}
	return ids
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// hint names the remedy for the errors that mean a wrong set-up. Drivers other
// than pgx have error types of their own, which say as much without it.
func hint(err error) string {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return ""
	}
	switch server.Code {
	case "42P01": // undefined_table
		return " (make it with outboxd setup, or name it in Table.Name with its schema)"
	case "42703": // undefined_column
		return " (name the columns in Table.Columns)"
	case "42804": // datatype_mismatch
		return " (Table.Payload must be the type of the payload column)"
	case "42501": // insufficient_privilege
		return " (grant it to the service's role: outboxd setup --app-role)"
	}
	return ""
}
