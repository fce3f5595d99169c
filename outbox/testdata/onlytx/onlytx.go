// Command onlytx does not compile, and a test makes sure of it.
package main

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/outbox"
)

func main() {
	var (
		ctx   context.Context
		event outbox.Event

		tx     pgx.Tx
		poolTx *pgxpool.Tx
		conn   *pgx.Conn
		pool   *pgxpool.Pool
		leased *pgxpool.Conn

		sqlTx   *sql.Tx
		db      *sql.DB
		sqlConn *sql.Conn
	)
	outbox.Write(ctx, tx, event)
	outbox.Write(ctx, poolTx, event)
	outbox.Write(ctx, conn, event)   // must not compile
	outbox.Write(ctx, pool, event)   // must not compile
	outbox.Write(ctx, leased, event) // must not compile
	outbox.Write(ctx, sqlTx, event)  // must not compile

	outbox.Emit(ctx, tx, event)
	outbox.Emit(ctx, conn, event) // must not compile
	outbox.Emit(ctx, pool, event) // must not compile

	outbox.WriteSQL(ctx, sqlTx, event)
	outbox.WriteSQL(ctx, db, event)      // must not compile
	outbox.WriteSQL(ctx, sqlConn, event) // must not compile
	outbox.WriteSQL(ctx, tx, event)      // must not compile

	outbox.EmitSQL(ctx, sqlTx, event)
	outbox.EmitSQL(ctx, db, event) // must not compile
}
