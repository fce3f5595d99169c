package setup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
)

// watchInterval is how often we look who holds up the slot.
const watchInterval = time.Second

const queryCanceled = "57014"

// createSlot makes the slot within s.slotTimeout. The server waits for every
// transaction of the whole cluster that has an id to end; who they are is
// reported meanwhile, over a second connection.
func createSlot(ctx context.Context, conn *pgx.Conn, s *settings, major int, report *reporter) error {
	watch, err := connect(ctx, s.config)
	if err != nil {
		return err
	}
	defer closeConn(ctx, watch)
	// The server's own timer leaves the session usable and no half-made slot.
	// lock_timeout would end the wait for other transactions.
	timeout := max(s.slotTimeout.Milliseconds(), 1)
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = 0; SET statement_timeout = %d", timeout)); err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	pid := conn.PgConn().PID()
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, slotSQL(s.Slot, major))
		done <- err
	}()
	holders, err := waitForSlot(ctx, watch, pid, done, report)
	if err != nil {
		return slotError(s, err, holders)
	}
	_, err = conn.Exec(ctx, "SET statement_timeout = 0")
	return err
}

// waitForSlot waits for done and reports who holds up the backend pid, each
// time that changes. It returns the last of them with the error of done.
func waitForSlot(ctx context.Context, watch *pgx.Conn, pid uint32, done <-chan error, report *reporter) (holders string, err error) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return holders, err
		case <-tick.C:
		}
		// What cannot be read is not worth failing for: done will come.
		now, err := blockers(ctx, watch, pid)
		if err == nil && now != "" && now != holders {
			report.note("waiting: slot " + report.slot + " can be made once these open transactions have ended: " + now)
			holders = now
		}
	}
}

// blockers describes whom the backend pid waits for. A prepared transaction has
// no process: it shows as pid 0. What others run is not ours to print.
func blockers(ctx context.Context, watch *pgx.Conn, pid uint32) (string, error) {
	rows, err := watch.Query(ctx, `
		SELECT CASE WHEN b.pid = 0 THEN 'a prepared transaction (see pg_prepared_xacts)'
		       ELSE concat_ws(', ', 'pid ' || b.pid, 'role ' || a.usename, 'database ' || a.datname,
		            nullif(a.application_name, ''), a.state, 'since ' || to_char(a.xact_start, 'YYYY-MM-DD HH24:MI:SS TZ')) END
		FROM unnest(pg_blocking_pids($1)) AS b (pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid
		ORDER BY a.xact_start`, int32(pid))
	if err != nil {
		return "", err
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(list, "; "), err
}

func slotError(s *settings, err error, holders string) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != queryCanceled {
		return fmt.Errorf("create slot %q: %w", s.Slot, err)
	}
	if holders == "" {
		holders = "not seen"
	}
	return &cdc.Error{Code: CodeSlotTimeout,
		Detail: fmt.Sprintf("slot %q could not be made within %s: it has to wait for every transaction that was open then: %s", s.Slot, s.slotTimeout, holders),
		Fix:    "end these transactions (SELECT pg_terminate_backend(pid)), or wait longer: --slot-timeout; then run this again, it goes on where it stopped",
		Err:    err}
}
