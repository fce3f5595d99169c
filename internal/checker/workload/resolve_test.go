package workload_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// TestResolve finds out about a transaction that committed, one that did not,
// and one that is still at it.
func TestResolve(t *testing.T) {
	database := devtest.Database(t)
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), database)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	exec := func(conn *pgx.Conn, sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	committed, aborted, running := outbox.NewID().String(), outbox.NewID().String(), outbox.NewID().String()
	conn, other := connect(), connect()
	exec(conn, workload.LedgerSQL)
	exec(conn, "INSERT INTO "+workload.Ledger+" VALUES ($1)", committed)
	exec(other, "BEGIN")
	exec(other, "INSERT INTO "+workload.Ledger+" VALUES ($1)", running)

	var h workload.History
	h.Add([]checker.Written{
		{ID: "committed", Outcome: checker.Unknown, Tx: committed},
		{ID: "behind a savepoint", Outcome: checker.RolledBack, Tx: committed},
		{ID: "aborted", Outcome: checker.Unknown, Tx: aborted},
		{ID: "running", Outcome: checker.Unknown, Tx: running},
		{ID: "no id", Outcome: checker.Unknown},
	})
	resolved := make(chan error, 1)
	go func() { resolved <- h.Resolve(t.Context(), database) }()
	for waiting := false; !waiting; <-time.After(10 * time.Millisecond) {
		if err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	exec(other, "COMMIT")
	if err := <-resolved; err != nil {
		t.Fatal(err)
	}
	want := map[string]checker.Outcome{
		"committed": checker.Committed, "behind a savepoint": checker.RolledBack, "aborted": checker.RolledBack,
		"running": checker.Committed, "no id": checker.Unknown,
	}
	for _, w := range h.Written() {
		if w.Outcome != want[w.ID] {
			t.Errorf("%s: outcome %d, want %d", w.ID, w.Outcome, want[w.ID])
		}
	}
}
