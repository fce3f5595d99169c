package migrations_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/migrations"
)

func TestMain(m *testing.M) { devtest.Main(m) }

func open(t *testing.T) *sql.DB {
	t.Helper()
	return openURL(t, devtest.Database(t))
}

func openURL(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func mustExec(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func scalar[T any](t *testing.T, db *sql.DB, query string, args ...any) T {
	t.Helper()
	var v T
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// all are the names of the migrations.
func all(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.sql")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestUpTwice(t *testing.T) {
	db := open(t)
	applied, err := migrations.Up(t.Context(), db)
	if err != nil || !slices.Equal(applied, all(t)) {
		t.Fatalf("first Up: %v, %v", applied, err)
	}
	applied, err = migrations.Up(t.Context(), db)
	if err != nil || len(applied) != 0 {
		t.Fatalf("second Up: %v, %v, want nothing to do", applied, err)
	}
	if held := scalar[int](t, db, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"); held != 0 {
		t.Errorf("%d advisory locks left", held)
	}
}

func TestUpManyAtOnce(t *testing.T) {
	db := open(t)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	applied := make([][]string, len(errs))
	for i := range errs {
		wg.Go(func() { applied[i], errs[i] = migrations.Up(context.Background(), db) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := slices.Concat(applied...); !slices.Equal(got, all(t)) {
		t.Errorf("applied %v, want each migration once", got)
	}
}

// A pool of one would wait for ever for its second connection.
func TestUpWantsTwoConnections(t *testing.T) {
	db := open(t)
	db.SetMaxOpenConns(1)
	if _, err := migrations.Up(t.Context(), db); err == nil || !strings.Contains(err.Error(), "SetMaxOpenConns") {
		t.Errorf("Up with a pool of one: %v", err)
	}
	db.SetMaxOpenConns(2)
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Errorf("Up with a pool of two: %v", err)
	}
}

// A service with goose migrations of its own keeps its version table.
func TestUpLeavesForeignVersionTable(t *testing.T) {
	db := open(t)
	mustExec(t, db, "CREATE TABLE goose_db_version (version_id bigint); INSERT INTO goose_db_version VALUES (42)")
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if v := scalar[int](t, db, "SELECT max(version_id) FROM goose_db_version"); v != 42 {
		t.Errorf("the service's version became %d", v)
	}
}

func TestUpRefusesNewerSchema(t *testing.T) {
	db := open(t)
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "INSERT INTO outboxd.schema_version (version_id, is_applied) VALUES (9999, true)")
	if _, err := migrations.Up(t.Context(), db); !errors.Is(err, migrations.ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
}

// schemaOf lists everything in schema outboxd that a difference between Up and
// Script could show in.
const schemaOf = `
SELECT string_agg(line, E'\n' ORDER BY line) FROM (
  SELECT format('%s.%s %s %s default %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                pg_get_expr(d.adbin, d.adrelid)) AS line
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND c.relkind = 'r'
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  WHERE c.relnamespace = 'outboxd'::regnamespace
  UNION ALL SELECT format('%s %s %s %s', relname, relkind, reloptions, relacl) FROM pg_class WHERE relnamespace = 'outboxd'::regnamespace
  UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = 'outboxd'::regnamespace
  UNION ALL SELECT pg_get_functiondef(oid) || proacl::text FROM pg_proc WHERE pronamespace = 'outboxd'::regnamespace
  UNION ALL SELECT format('%s %s', objoid::regclass, description) FROM pg_description d JOIN pg_class c ON c.oid = d.objoid AND c.relnamespace = 'outboxd'::regnamespace
  UNION ALL SELECT format('schema %s', nspacl) FROM pg_namespace WHERE nspname = 'outboxd'
  UNION ALL SELECT format('version %s %s', version_id, is_applied) FROM outboxd.schema_version
) AS lines`

func TestScriptEqualsUp(t *testing.T) {
	up, printed := open(t), open(t)
	if _, err := migrations.Up(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	script, err := migrations.Script(-1)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, printed, script)
	want, got := scalar[string](t, up, schemaOf), scalar[string](t, printed, schemaOf)
	if got != want {
		t.Errorf("Script and Up differ:\n--- Up\n%s\n--- Script\n%s", want, got)
	}
	if applied, err := migrations.Up(t.Context(), printed); err != nil || len(applied) != 0 {
		t.Errorf("Up after Script: %v, %v, want nothing to do", applied, err)
	}
	if script, err := migrations.Script(migrations.Latest()); err != nil || script != "" {
		t.Errorf("Script(Latest) = %q, %v, want nothing", script, err)
	}
}

// The cdc package reads and writes the witness by these names and types.
func TestWitnessColumns(t *testing.T) {
	db := open(t)
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, `INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, acked_lsn)
		VALUES ('p', '7', 1, 1, 's', 'pub', '0/10')`)
	got := scalar[string](t, db, `SELECT (outbox_table, config_hash, publication_fingerprint, replay_floor, acked_commit,
		acked_events, version, holder)::text FROM outboxd.witness`)
	if want := `("","","",0,0/0,0,0,"")`; got != want {
		t.Errorf("defaults are %s, want %s", got, want)
	}
	for _, epoch := range []int{0, 65536} {
		if _, err := db.ExecContext(t.Context(), "UPDATE outboxd.witness SET epoch = $1", epoch); err == nil {
			t.Errorf("epoch %d was accepted", epoch)
		}
	}
}

// A relay rewrites its row once a second for years: dead versions are pruned
// within the page, and no index entry is made.
func TestWitnessStaysSmall(t *testing.T) {
	// Nothing is pruned while anybody else on the server has an old transaction.
	db := openURL(t, devtest.DatabaseOn(t, devtest.Postgres(t).URL("postgres", "postgres")))
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, `INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, acked_lsn)
		VALUES ('p', '7000000000000000000', 1, 1, 'outboxd_shop', 'outboxd_shop', '0/10')`)
	// One transaction each, as in life: pruning needs the versions to be dead.
	for range 500 {
		mustExec(t, db, "UPDATE outboxd.witness SET version = version + 1, acked_lsn = acked_lsn + 100, updated_at = now()")
	}
	if pages := scalar[int](t, db, "SELECT pg_relation_size('outboxd.witness') / 8192"); pages > 1 {
		t.Errorf("the witness has %d pages after 500 updates, want 1", pages)
	}
}

// Also where many pipelines share the table, an update finds room in the page
// of its row, and the index is left alone.
func TestWitnessUpdatesAreHOT(t *testing.T) {
	db := openURL(t, devtest.DatabaseOn(t, devtest.Postgres(t).URL("postgres", "postgres")))
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // what is counted is the session's until it is flushed
	const pipelines, rounds = 150, 3
	mustExec(t, db, fmt.Sprintf(`INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, acked_lsn)
		SELECT 'p' || i, '7000000000000000000', 1, 1, 'outboxd_shop', 'outboxd_shop', '0/10' FROM generate_series(1, %d) i`, pipelines))
	for i := range rounds * pipelines {
		mustExec(t, db, fmt.Sprintf("UPDATE outboxd.witness SET version = version + 1 WHERE pipeline = 'p%d'", 1+i%pipelines))
	}
	mustExec(t, db, "SELECT pg_stat_force_next_flush()")
	mustExec(t, db, "SELECT 1")
	count := func(column string) int {
		return scalar[int](t, db, "SELECT "+column+" FROM pg_stat_user_tables WHERE relid = 'outboxd.witness'::regclass")
	}
	if all, hot := count("n_tup_upd"), count("n_tup_hot_upd"); all != rounds*pipelines || hot != all {
		t.Errorf("%d of %d updates stayed in their page, want all of %d", hot, all, rounds*pipelines)
	}
}

func TestUUIDv7(t *testing.T) {
	db := open(t)
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	bad := scalar[int](t, db, `SELECT count(*) FROM (SELECT outboxd.uuidv7()::text AS id FROM generate_series(1, 1000)) s
		WHERE id !~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'`)
	if bad != 0 {
		t.Errorf("%d of 1000 are no version 7", bad)
	}
	if n := scalar[int](t, db, "SELECT count(DISTINCT outboxd.uuidv7()) FROM generate_series(1, 1000)"); n != 1000 {
		t.Errorf("%d of 1000 are distinct", n)
	}
	const clock = "SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint"
	before := scalar[int64](t, db, clock)
	at := scalar[int64](t, db, "SELECT ('x' || substr(replace(outboxd.uuidv7()::text, '-', ''), 1, 12))::bit(48)::bigint")
	if after := scalar[int64](t, db, clock); at < before || at > after {
		t.Errorf("an id made between %d and %d ms says %d", before, after, at)
	}
}

// emit must work for a role that may not call pg_logical_emit_message, and for
// nobody who was not granted it; a function of the same name earlier in the
// caller's search path must not be run by the definer.
func TestEmitAsDefiner(t *testing.T) {
	db := open(t)
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // SET ROLE is the session's
	role := "emit_" + scalar[string](t, db, "SELECT oid::text FROM pg_database WHERE datname = current_database()")
	mustExec(t, db, "REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text"+emitTail(t, db)+") FROM PUBLIC")
	mustExec(t, db, "CREATE ROLE "+role+"; GRANT USAGE ON SCHEMA outboxd TO "+role)
	t.Cleanup(func() { _, _ = db.Exec("RESET ROLE; DROP OWNED BY " + role + "; DROP ROLE " + role) })
	const emit = `SELECT outboxd.emit('order', '7', 'OrderPlaced', '{"n": 1.10}')::text`

	mustExec(t, db, "SET ROLE "+role)
	if _, err := db.Exec(emit); err == nil || !strings.Contains(err.Error(), "permission denied for function emit") {
		t.Fatalf("emit without a grant: %v", err)
	}
	mustExec(t, db, "RESET ROLE; GRANT EXECUTE ON FUNCTION outboxd.emit TO "+role)
	mustExec(t, db, `CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO `+role+`;
		CREATE FUNCTION evil.json_build_object(VARIADIC "any") RETURNS json LANGUAGE internal AS 'json_build_object';
		CREATE FUNCTION evil.pg_logical_emit_message(boolean, text, text) RETURNS pg_lsn LANGUAGE plpgsql AS
		  $$BEGIN RAISE 'hijacked'; END$$`)
	mustExec(t, db, "SET ROLE "+role+"; SET search_path = evil, pg_catalog")
	if id := scalar[string](t, db, emit); len(id) != 36 {
		t.Errorf("emit returned %q, want an id", id)
	}
	if _, err := db.Exec("SELECT pg_catalog.pg_logical_emit_message(true, 'outboxd', 'forged')"); err == nil {
		t.Error("the role may forge messages itself")
	}
	for _, arguments := range []string{
		"NULL, '7', 'OrderPlaced'", "'order', NULL, 'OrderPlaced'", "'order', '7', NULL",
		"'', '7', 'OrderPlaced'", "'order', '', 'OrderPlaced'", "'order', '7', ''",
	} {
		_, err := db.Exec("SELECT outboxd.emit(" + arguments + ", '{}')")
		if err == nil || !strings.Contains(err.Error(), "neither null nor empty") {
			t.Errorf("emit of %s: %v", arguments, err)
		}
	}
}

// emitTail is the fourth parameter that pg_logical_emit_message has since 17.
func emitTail(t *testing.T, db *sql.DB) string {
	if scalar[int](t, db, "SELECT current_setting('server_version_num')::int") >= 170000 {
		return ", boolean"
	}
	return ""
}
