package setup_test

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// database is a fresh one and a superuser's connection to it.
type database struct {
	url  string
	name string
	conn *pgx.Conn
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	return openDatabase(t, devtest.Database(t))
}

func openDatabase(t *testing.T, databaseURL string) *database {
	t.Helper()
	conn := dial(t, databaseURL)
	return &database{databaseURL, conn.Config().Database, conn}
}

func dial(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs statements as psql would: no parameters, several at once.
func (d *database) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := d.conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (d *database) text(t *testing.T, query string, args ...any) string {
	t.Helper()
	var s string
	if err := d.conn.QueryRow(t.Context(), query, args...).Scan(&s); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

// reset takes back what tests and setup have made, which is quicker than
// another database.
func (d *database) reset(t *testing.T) {
	t.Helper()
	d.exec(t, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
		DO $$DECLARE p text; BEGIN FOR p IN SELECT pubname FROM pg_publication LOOP EXECUTE format('DROP PUBLICATION %I', p); END LOOP; END$$;
		DROP SCHEMA IF EXISTS outboxd CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public`)
}

// role makes a role that is dropped with the test and returns the URL by which
// it logs in.
func (d *database) role(t *testing.T, attributes string) (name, databaseURL string) {
	t.Helper()
	name = devtest.Name(t)
	d.exec(t, "CREATE ROLE "+name+" LOGIN PASSWORD 'secret' "+attributes)
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY " + name, "DROP ROLE " + name} {
			if _, err := d.conn.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, "secret")
	return name, u.String()
}

// apply runs setup and returns its output.
func (d *database) apply(t *testing.T, o setup.Options) (string, error) {
	t.Helper()
	if o.Database == "" {
		o.Database = d.url
	}
	var out bytes.Buffer
	err := setup.Apply(t.Context(), o, &out)
	return out.String(), err
}

func (d *database) mustApply(t *testing.T, o setup.Options) string {
	t.Helper()
	out, err := d.apply(t, o)
	if err != nil {
		t.Fatalf("setup: %v", err)
	}
	return out
}

// count is how many lines of a report say what about something named name.
func count(report, what, name string) int {
	n := 0
	for line := range strings.Lines(report) {
		if strings.HasPrefix(line, what) && strings.Contains(line, name) {
			n++
		}
	}
	return n
}

// wantProblem finds the problem of that code in err whose detail holds all of
// the words, and returns what mends it.
func wantProblem(t *testing.T, err error, code cdc.Code, words ...string) string {
	t.Helper()
	for _, e := range problems(err) {
		if e.Code == code && containsAll(e.Detail, words) {
			return e.Fix
		}
	}
	t.Fatalf("got %v, want %s with %q", err, code, words)
	return ""
}

func problems(err error) []*cdc.Error {
	var all setup.Problems
	if errors.As(err, &all) {
		return all
	}
	var one *cdc.Error
	if errors.As(err, &one) {
		return []*cdc.Error{one}
	}
	return nil
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// denied fails the test unless sql is refused for want of a privilege.
func denied(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
		t.Errorf("%s: got %v, want permission denied", sql, err)
	}
}

func allowed(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(what, t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
