package devtest_test

import (
	"context"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func TestDatabasesAreNewAndApart(t *testing.T) {
	first, second := connect(t, devtest.Database(t)), connect(t, devtest.Database(t))
	if _, err := first.Exec(t.Context(), "CREATE TABLE things ()"); err != nil {
		t.Fatal(err)
	}
	var there bool
	if err := second.QueryRow(t.Context(), "SELECT to_regclass('things') IS NOT NULL").Scan(&there); err != nil || there {
		t.Errorf("a table of one database is in another: %v, %v", there, err)
	}
	var level string
	if err := second.QueryRow(t.Context(), "SHOW wal_level").Scan(&level); err != nil || level != "logical" {
		t.Errorf("wal_level = %q, %v; want logical", level, err)
	}
}

// A test may leave a slot that a session still streams from, and connections.
func TestDatabaseGoesWithItsSlots(t *testing.T) {
	server := connect(t, devtest.Postgres(t).URL("postgres", "postgres"))
	var database string
	t.Run("test that leaves a slot", func(t *testing.T) {
		url := devtest.DatabaseOn(t, devtest.Postgres(t).URL("postgres", "postgres"))
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		database = conn.Config().Database
		slot := devtest.Name(t)
		if _, err := conn.Exec(t.Context(), "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot); err != nil {
			t.Fatal(err)
		}
		stream, err := pgconn.Connect(t.Context(), url+"&replication=database")
		if err != nil {
			t.Fatal(err)
		}
		start := "START_REPLICATION SLOT " + slot + " LOGICAL 0/0 (proto_version '1', publication_names 'none')"
		stream.Frontend().SendQuery(&pgproto3.Query{String: start})
		if err := stream.Frontend().Flush(); err != nil {
			t.Fatal(err)
		}
	})
	var databases, slots int
	err := server.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_database WHERE datname = $1),
		(SELECT count(*) FROM pg_replication_slots WHERE database = $1)`, database).Scan(&databases, &slots)
	if err != nil || databases != 0 || slots != 0 {
		t.Errorf("left behind: %d databases, %d slots, %v", databases, slots, err)
	}
}

// The server of a variable is used for databases, and no other is started.
func TestDatabaseHonoursVariable(t *testing.T) {
	own := devtest.PostgresVersion(t, "16")
	t.Setenv("OUTBOXD_TEST_DATABASE", own.URL("postgres", "postgres"))
	if port := connect(t, devtest.Database(t)).Config().Port; int(port) != own.Port() {
		t.Errorf("the database is on port %d, want %d", port, own.Port())
	}
}

func TestPostgresIsShared(t *testing.T) {
	first := devtest.Postgres(t)
	if again := devtest.Postgres(t); again != first {
		t.Error("two calls gave two servers")
	}
	if first == devtest.PostgresVersion(t, "16") {
		t.Error("two versions gave one server")
	}
}

func TestName(t *testing.T) {
	valid := regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)
	for _, name := range []string{"a", "Ünïcode 'quoted'/…", "a very long name of a test, longer than an identifier may be", "UPPER-case"} {
		t.Run(name, func(t *testing.T) {
			first, second := devtest.Name(t), devtest.Name(t)
			if !valid.MatchString(first) {
				t.Errorf("Name() = %q, want it to match %v", first, valid)
			}
			if first == second {
				t.Errorf("Name() = %q twice", first)
			}
		})
	}
}

func TestKfake(t *testing.T) {
	if brokers := devtest.Kfake(t).Brokers(); len(brokers) != 1 {
		t.Errorf("brokers %q, want one", brokers)
	}
}
