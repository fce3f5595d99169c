package workload_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// Writers that can write nothing must not give an empty history, of which
// every relay would be worthy.
func TestWritersWithoutTheirTable(t *testing.T) {
	database := devtest.Database(t)
	stranger, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	stranger.User = url.UserPassword("nobody_"+devtest.Name(t), "wrong")
	run := func(database, want string) {
		t.Helper()
		var h workload.History
		err := workload.Run(t.Context(), workload.Options{Database: database, Writers: 2, Transactions: 3}, &h)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run = %v, want %q", err, want)
		}
	}
	run(stranger.String(), "password authentication failed")
	run(database, `relation "`+workload.Ledger+`" does not exist`)
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), workload.LedgerSQL); err != nil {
		t.Fatal(err)
	}
	run(database, `relation "outbox" does not exist`)
}
