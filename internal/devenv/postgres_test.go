package devenv_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv"
)

func startPostgres(t *testing.T, o devenv.PostgresOptions) *devenv.Postgres {
	t.Helper()
	p, err := devenv.StartPostgres(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// queryString runs a statement that returns one text, on a new connection.
func queryString(ctx context.Context, url, sql string, args ...any) (s string, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, sql, args...).Scan(&s)
	return s, err
}

func TestPostgresVersions(t *testing.T) {
	t.Parallel()
	for _, version := range devenv.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			p := startPostgres(t, devenv.PostgresOptions{Version: version})
			got, err := queryString(testContext(t), p.URL("postgres", "postgres"), "SHOW server_version")
			if err != nil || !strings.HasPrefix(got, version+".") {
				t.Errorf("server_version = %q, %v; want %s", got, err, version)
			}
			if p.Version() != version {
				t.Errorf("Version() = %q, want %q", p.Version(), version)
			}
		})
	}
}

func TestPostgresLifecycle(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := startPostgres(t, devenv.PostgresOptions{})
	url, err := p.CreateDatabase(ctx, `odd "name"`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queryString(ctx, url, "WITH x AS (SELECT 1) SELECT 'answers'"); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(ctx, "CREATE TABLE kept (n int GENERATED ALWAYS AS IDENTITY, s text)")
	conn.Close(ctx)
	if err != nil {
		t.Fatal(err)
	}
	testLifecycle(ctx, t, p,
		func() error { return p.Stop(ctx, "fast") },
		func(s string) error {
			_, err := queryString(ctx, url, "INSERT INTO kept (s) VALUES ($1) RETURNING s", s)
			return err
		},
		func() (string, error) { return queryString(ctx, url, "SELECT s FROM kept ORDER BY n DESC LIMIT 1") })
}

func TestPostgresStopModes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := startPostgres(t, devenv.PostgresOptions{})
	for _, mode := range []string{"smart", "fast", "immediate"} {
		t.Run(mode, func(t *testing.T) {
			if err := p.Stop(ctx, mode); err != nil {
				t.Fatal(err)
			}
			before, err := p.Log()
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Start(ctx); err != nil {
				t.Fatal(err)
			}
			after, err := p.Log()
			if err != nil {
				t.Fatal(err)
			}
			recovered := strings.Contains(strings.TrimPrefix(after, before), "was not properly shut down")
			if want := mode == "immediate"; recovered != want {
				t.Errorf("recovery at the next start: %v, want %v", recovered, want)
			}
		})
	}
	if err := p.Stop(ctx, "gently"); err == nil || !strings.Contains(err.Error(), "gently") {
		t.Errorf("Stop with an unknown mode = %v, want an error that names it", err)
	}
}

// A smart shutdown waits for sessions, so it is where a wait must end early.
func TestPostgresStopHonoursContext(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := startPostgres(t, devenv.PostgresOptions{})
	conn, err := pgx.Connect(ctx, p.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := p.Stop(cancelled, "smart"); err == nil {
		t.Error("Stop returned nil while a session holds the server up")
	}
	if err := p.Stop(ctx, "fast"); err != nil {
		t.Error(err)
	}
}

func TestPostgresSettings(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := startPostgres(t, devenv.PostgresOptions{Settings: map[string]string{
		"wal_level":        "replica",
		"application_name": "it's",
	}})
	url := p.URL("postgres", "postgres")
	for name, want := range map[string]string{
		"wal_level":        "replica",
		"application_name": "it's",
		"listen_addresses": "127.0.0.1",
		"fsync":            "on",
		"max_wal_senders":  "50",
		"TimeZone":         "UTC",
	} {
		if got, err := queryString(ctx, url, "SELECT current_setting($1)", name); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestPostgresChecksPasswords(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, devenv.PostgresOptions{})
	url := strings.Replace(p.URL("postgres", "postgres"), ":postgres@", ":wrong@", 1)
	if _, err := queryString(testContext(t), url, "SELECT ''"); err == nil || !strings.Contains(err.Error(), "28P01") {
		t.Errorf("connecting with a wrong password: %v, want SQLSTATE 28P01", err)
	}
}

func TestPostgresFromDataDir(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	first := startPostgres(t, devenv.PostgresOptions{})
	url, err := first.CreateDatabase(ctx, "kept")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(ctx, "fast"); err != nil {
		t.Fatal(err)
	}
	second := startPostgres(t, devenv.PostgresOptions{Dir: first.DataDir()})
	if err := first.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{url, second.URL("kept", "postgres")} {
		if got, err := queryString(ctx, url, "SELECT current_database()"); err != nil || got != "kept" {
			t.Errorf("database of %s = %q, %v; want kept", url, got, err)
		}
	}
}

func TestPostgresStandby(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	primary := startPostgres(t, devenv.PostgresOptions{})
	if err := primary.Stop(ctx, "fast"); err != nil {
		t.Fatal(err)
	}
	signal := filepath.Join(primary.DataDir(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	standby := startPostgres(t, devenv.PostgresOptions{
		Dir:      primary.DataDir(),
		Settings: map[string]string{"primary_conninfo": primary.URL("postgres", "postgres")},
	})
	got, err := queryString(ctx, standby.URL("postgres", "postgres"), "SELECT pg_is_in_recovery()::text")
	if err != nil || got != "true" {
		t.Errorf("pg_is_in_recovery() = %q, %v; want true", got, err)
	}
}

// The programs of an installation that was fetched stand for a local one.
func TestPostgresBin(t *testing.T) {
	startPostgres(t, devenv.PostgresOptions{Version: "16"})
	cache, err := devenv.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bins, err := filepath.Glob(filepath.Join(cache, "postgres-16.*", "pg", "bin"))
	if err != nil || len(bins) != 1 {
		t.Fatalf("programs of PostgreSQL 16: %q, %v", bins, err)
	}
	t.Setenv("OUTBOXD_TEST_POSTGRES_BIN", bins[0])
	for version, want := range map[string]string{"": "16", "16": "16", "17": "17"} {
		if p := startPostgres(t, devenv.PostgresOptions{Version: version}); p.Version() != want {
			t.Errorf("version %q with the programs of 16: started %s, want %s", version, p.Version(), want)
		}
	}
	t.Setenv("OUTBOXD_TEST_POSTGRES_BIN", t.TempDir())
	_, err = devenv.StartPostgres(testContext(t), devenv.PostgresOptions{})
	if err == nil || !strings.Contains(err.Error(), "OUTBOXD_TEST_POSTGRES_BIN") {
		t.Errorf("StartPostgres with a wrong directory = %v, want an error that names the variable", err)
	}
}

func TestPostgresUnknownVersion(t *testing.T) {
	t.Parallel()
	_, err := devenv.StartPostgres(testContext(t), devenv.PostgresOptions{Version: "9.6"})
	if err == nil || !strings.Contains(err.Error(), "14, 15, 16, 17, 18") {
		t.Errorf("StartPostgres = %v, want an error that lists the versions", err)
	}
}

func TestPostgresBadSetting(t *testing.T) {
	t.Parallel()
	_, err := devenv.StartPostgres(testContext(t), devenv.PostgresOptions{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("StartPostgres = %v, want an error with the end of the log", err)
	}
}

// A killed postmaster cannot remove its System V segment, and in a test nobody
// starts it again to do so.
func TestPostgresKilledLeavesNoSharedMemory(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, devenv.PostgresOptions{})
	pidFile, err := os.ReadFile(filepath.Join(p.DataDir(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(strings.Split(string(pidFile), "\n")[6]) // key, id
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if !hasSegment(t, fields[1]) {
		t.Fatalf("no segment %s after the kill: this test looks at the wrong thing", fields[1])
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	// The server's processes let go of it when they have seen that the postmaster is gone.
	for deadline := time.Now().Add(10 * time.Second); hasSegment(t, fields[1]); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("segment %s is still there", fields[1])
		}
	}
}

func hasSegment(t *testing.T, id string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); fields[1] == id {
			return true
		}
	}
	return false
}

func TestPostgresOrphan(t *testing.T) {
	t.Parallel()
	testOrphan(t, "kill", func(ctx context.Context) (service, error) {
		return devenv.StartPostgres(ctx, devenv.PostgresOptions{})
	})
}

func TestPostgresPanic(t *testing.T) {
	t.Parallel()
	testOrphan(t, "panic", func(ctx context.Context) (service, error) {
		return devenv.StartPostgres(ctx, devenv.PostgresOptions{})
	})
}
