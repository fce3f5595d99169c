package devtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv"
)

// databaseVar names a running server for Database.
const databaseVar = "OUTBOXD_TEST_DATABASE"

// Postgres returns the shared server of the default version that this process
// started. It is never the one of OUTBOXD_TEST_DATABASE, which has no process to
// look at; most tests want Database. Do not stop it.
func Postgres(t testing.TB) *devenv.Postgres {
	t.Helper()
	return PostgresVersion(t, "")
}

// PostgresVersion is Postgres for a major version, one of
// devenv.PostgresVersions.
func PostgresVersion(t testing.TB, version string) *devenv.Postgres {
	t.Helper()
	return get(t, &shared, strings.TrimSpace("PostgreSQL "+version), func(ctx context.Context) (*devenv.Postgres, error) {
		return devenv.StartPostgres(ctx, devenv.PostgresOptions{
			Version: version,
			// The operating system does not crash in these tests.
			Settings: map[string]string{"fsync": "off"},
		})
	})
}

// Database creates a database for this test, on the server that
// OUTBOXD_TEST_DATABASE names or else on the shared one, and returns its URL for
// the superuser. After the test it is dropped, with its replication slots.
func Database(t testing.TB) string {
	t.Helper()
	server := os.Getenv(databaseVar)
	if server == "" {
		server = Postgres(t).URL("postgres", "postgres")
	}
	return DatabaseOn(t, server)
}

// DatabaseOn is Database on the server of a superuser's URL.
func DatabaseOn(t testing.TB, server string) string {
	t.Helper()
	name := Name(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	u, err := url.Parse(server)
	if err == nil {
		err = onServer(ctx, server, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "CREATE DATABASE "+name)
			return err
		})
	}
	if err != nil {
		t.Fatalf("create database %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := dropDatabase(server, name); err != nil {
			t.Errorf("drop database %s: %v", name, err)
		}
	})
	u.Path = "/" + name
	return u.String()
}

// onServer calls do with a connection to the server.
func onServer(ctx context.Context, server string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return do(conn)
}

// dropDatabase drops a database and, before it, its slots: a slot outlives its
// sessions, forbids the drop, and would hold the WAL of all other tests.
func dropDatabase(server, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return onServer(ctx, server, func(conn *pgx.Conn) error {
		for {
			left, err := dropSlots(ctx, conn, name)
			if err != nil {
				return err
			}
			if left == 0 {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for %d slots to be released: %w", left, ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		return err
	})
}

// dropSlots ends the sessions of the database's slots, drops those slots that
// nobody holds, and returns how many are held still.
func dropSlots(ctx context.Context, conn *pgx.Conn, database string) (left int, err error) {
	_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid)
		FROM pg_replication_slots WHERE database = $1 AND active_pid IS NOT NULL`, database)
	if err != nil {
		return 0, err
	}
	_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name)
		FROM pg_replication_slots WHERE database = $1 AND active_pid IS NULL`, database)
	if err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, `SELECT count(*)
		FROM pg_replication_slots WHERE database = $1`, database).Scan(&left)
	return left, err
}
