package devenv_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv"
)

func query(t *testing.T, p *devenv.Postgres, sql string) string {
	t.Helper()
	s, err := queryString(testContext(t), p.URL("postgres", "postgres"), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func run(t *testing.T, p *devenv.Postgres, sql string) {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), p.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(testContext(t), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// until asks again and again until the answer is as wanted.
func until(t *testing.T, p *devenv.Postgres, sql, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got string
	if !poll(ctx, func() bool { got = query(t, p, sql); return got == want }) {
		t.Fatalf("%s: %q, want %q", sql, got, want)
	}
}

// A standby has what was committed before the backup and after it, copies the
// logical slot where the version can, and goes on by itself once promoted: also
// where the primary waited for it.
func TestStandby(t *testing.T) {
	t.Parallel()
	for _, version := range devenv.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			primary := startPostgres(t, devenv.PostgresOptions{Version: version})
			run(t, primary, "CREATE TABLE kept AS SELECT 'before' AS s")
			standby, err := devenv.StartStandby(testContext(t), primary, devenv.StandbyOptions{Synchronous: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := standby.Close(); err != nil {
					t.Error(err)
				}
			})
			until(t, primary, "SELECT coalesce(min(sync_state), '') FROM pg_stat_replication WHERE application_name = 'standby'", "sync")
			run(t, primary, "INSERT INTO kept VALUES ('after')")
			if version >= "17" {
				run(t, primary, "SELECT pg_create_logical_replication_slot('logical', 'pgoutput', false, false, true)")
				until(t, standby, "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'logical' AND synced", "1")
			}
			if err := primary.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := standby.Promote(testContext(t)); err != nil {
				t.Fatal(err)
			}
			run(t, standby, "INSERT INTO kept VALUES ('promoted')")
			if got := query(t, standby, "SELECT string_agg(s, ' ') FROM kept"); got != "before after promoted" {
				t.Errorf("the promoted standby has %q", got)
			}
		})
	}
}
