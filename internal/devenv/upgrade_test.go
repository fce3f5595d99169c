//go:build long && !embedded

package devenv_test

import (
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv"
)

// An upgraded server has what the old one had, also its logical slot once all
// before it is consumed. The old one is there again when pg_upgrade refuses.
func TestLongUpgrade(t *testing.T) {
	t.Parallel()
	old := startPostgres(t, devenv.PostgresOptions{Version: "17"})
	run(t, old, "CREATE TABLE kept AS SELECT 'kept' AS s")
	run(t, old, "SELECT pg_create_logical_replication_slot('logical', 'pgoutput')")
	run(t, old, "INSERT INTO kept VALUES ('and not consumed')")
	stop := func() {
		t.Helper()
		if err := old.Stop(testContext(t), "fast"); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if _, err := old.Upgrade(testContext(t), "18"); err == nil || !strings.Contains(err.Error(), "consume the pending WAL") {
		t.Fatalf("the upgrade ended with %v", err)
	}
	if err := old.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	run(t, old, "SELECT pg_replication_slot_advance('logical', pg_current_wal_lsn())")
	stop()
	upgraded, err := old.Upgrade(testContext(t), "18")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := upgraded.Close(); err != nil {
			t.Error(err)
		}
	})
	const sql = "SELECT current_setting('server_version_num')::int / 10000 || ': ' || string_agg(s, ' ') || ', ' || (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'logical') FROM kept"
	if got, want := query(t, upgraded, sql), "18: kept and not consumed, 1"; got != want {
		t.Errorf("the upgraded server has %q, want %q", got, want)
	}
}
