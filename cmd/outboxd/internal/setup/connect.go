package setup

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

const (
	// ddlLockTimeout keeps a statement that waits for a lock from queueing the
	// application behind it for long; setup can be run again.
	ddlLockTimeout = "3s"
	// lockKey serialises setups and teardowns of one database; "outboxds" as a
	// number.
	lockKey int64 = 0x6f7574626f786473
)

// connect opens a session that the role's or the database's timeouts do not
// end half-way.
func connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := cdc.ConnectConfig(ctx, config, "outboxd setup")
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; SET client_min_messages = warning")
	if err != nil {
		closeConn(ctx, conn)
		return nil, fmt.Errorf("prepare the session: %w", err)
	}
	return conn, nil
}

// closeConn gives locks back and says goodbye within a second, also when ctx has
// ended. Locks end with the session too, but the server may be a moment late
// with that, and who runs one command after the other would be told to wait.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, "SELECT pg_advisory_unlock_all()")
	_ = conn.Close(ctx)
}

// exclusive waits until no other setup or teardown works on this database. It
// lasts until closeConn. It holds no transaction id, so that nobody's slot
// creation waits for us.
func exclusive(ctx context.Context, conn *pgx.Conn, report *reporter) error {
	var locked bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", lockKey).Scan(&locked); err != nil {
		return fmt.Errorf("lock out other setups: %w", err)
	}
	if !locked {
		report.note("another setup or teardown works on this database: waiting for it")
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", lockKey); err != nil {
			return fmt.Errorf("wait for another setup: %w", err)
		}
	}
	return nil
}
