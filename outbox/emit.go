package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Emit hands events to the relay as transactional logical messages within tx,
// and returns their ids in the same order. No table is involved: the events
// are in the write-ahead log and nowhere else, and are published if and when tx
// commits. One round trip whatever their number; what fits into MaxMessage
// bytes travels in one message.
//
// See the package comment for what that saves and what it costs. Of the Table
// only Propagate and MaxPayload matter; payloads may be any bytes.
//
// Errors are those of Write.
func (t Table) Emit(ctx context.Context, tx pgx.Tx, events ...Event) ([]ID, error) {
	return t.emit(ctx, pgxExec(tx), events)
}

// EmitSQL is Emit for database/sql, with any driver for PostgreSQL.
func (t Table) EmitSQL(ctx context.Context, tx *sql.Tx, events ...Event) ([]ID, error) {
	return t.emit(ctx, sqlExec(tx), events)
}

// Emit is Table.Emit with the settings of the zero Table.
func Emit(ctx context.Context, tx pgx.Tx, events ...Event) ([]ID, error) {
	return Table{}.Emit(ctx, tx, events...)
}

// EmitSQL is Table.EmitSQL with the settings of the zero Table.
func EmitSQL(ctx context.Context, tx *sql.Tx, events ...Event) ([]ID, error) {
	return Table{}.EmitSQL(ctx, tx, events...)
}

// The first argument says that the message is transactional: it vanishes with
// a rollback, also one to a savepoint. The cast picks the function for text.
const (
	emitOne  = "SELECT pg_logical_emit_message(true, '" + MessagePrefix + "', $1::text)"
	emitMany = "SELECT pg_logical_emit_message(true, '" + MessagePrefix + "', content)" +
		" FROM unnest($1::text[]) AS content"
)

func (t Table) emit(ctx context.Context, exec execFunc, events []Event) ([]ID, error) {
	rows, err := t.prepare(ctx, events, forMessage)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	query, arg := emitOne, ""
	if contents := messages(rows, time.Now()); len(contents) == 1 {
		arg = contents[0]
	} else {
		var array arrayText
		for _, content := range contents {
			array.add(content)
		}
		query, arg = emitMany, array.String()
	}
	if err := exec(ctx, query, arg); err != nil {
		return nil, fmt.Errorf("outbox: emit %s: %w", counted(len(rows), "event"), err)
	}
	return ids(rows), nil
}
