// Package migrations brings the outboxd schema of a database up to date: the
// witness, the rings, and the functions that need no outbox table. The outbox
// table itself is not a migration, because its name, payload type and ring are
// chosen at setup.
//
// The migrations are goose's, with a version table of their own
// (outboxd.schema_version), so that a service which uses goose itself in the
// same database is not disturbed.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

// VersionTable is where the applied versions are kept.
const VersionTable = "outboxd.schema_version"

// lockKey serialises migrations of one database; "outboxdm" as a number.
const lockKey int64 = 0x6f7574626f78646d

const unlockTimeout = 5 * time.Second

//go:embed *.sql
var files embed.FS

// ErrNewer is returned by Up when the database has migrations that this
// program does not know: it was set up by a newer one.
var ErrNewer = errors.New("schema outboxd is newer than this program: use the newer one")

// Up applies what is missing and returns the names of the files it applied.
// Two callers at once are serialised by an advisory lock, which needs a direct
// connection to the server, not a pooled one. db must allow two connections.
func Up(ctx context.Context, db *sql.DB) (applied []string, err error) {
	if db.Stats().MaxOpenConnections == 1 {
		return nil, errors.New("migrate schema outboxd: one connection holds the lock and another migrates: allow two (SetMaxOpenConns)")
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate schema outboxd: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", lockKey); err != nil {
		return nil, fmt.Errorf("lock schema outboxd for migration: %w", err)
	}
	// The unlock must also run when ctx has ended: the connection may go back
	// to a pool. Where the server does not answer, the driver closes it.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		_, unlockErr := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", lockKey)
		err = errors.Join(err, unlockErr)
	}()
	if err := createSchema(ctx, conn); err != nil {
		return nil, err
	}
	return up(ctx, db)
}

// createSchema makes the schema only when it is missing: CREATE SCHEMA IF NOT
// EXISTS asks for CREATE on the database even when there is nothing to do.
func createSchema(ctx context.Context, conn *sql.Conn) error {
	var exists bool
	if err := conn.QueryRowContext(ctx, "SELECT to_regnamespace('outboxd') IS NOT NULL").Scan(&exists); err != nil {
		return fmt.Errorf("look up schema outboxd: %w", err)
	}
	if exists {
		return nil
	}
	if _, err := conn.ExecContext(ctx, "CREATE SCHEMA outboxd"); err != nil {
		return fmt.Errorf("create schema outboxd: %w", err)
	}
	return nil
}

func up(ctx context.Context, db *sql.DB) ([]string, error) {
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(VersionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("load migrations: %w", err)
	}
	current, err := provider.GetDBVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", VersionTable, err)
	}
	if latest := Latest(); current > latest {
		return nil, fmt.Errorf("%w (it is at version %d, this program knows %d)", ErrNewer, current, latest)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate schema outboxd: %w", err)
	}
	applied := make([]string, 0, len(results))
	for _, r := range results {
		applied = append(applied, path.Base(r.Source.Path))
	}
	return applied, nil
}

// Latest is the version that Up migrates to.
func Latest() int64 {
	sources := sources()
	return sources[len(sources)-1].version
}

// Script returns as SQL what Up does to a database at version from, where -1
// means that the schema does not exist yet: run with psql it leaves the same
// schema and the same version table.
func Script(from int64) (string, error) {
	var b strings.Builder
	if from < 0 {
		create, err := versionTableSQL()
		if err != nil {
			return "", fmt.Errorf("load migrations: %w", err)
		}
		fmt.Fprintf(&b, "CREATE SCHEMA outboxd;\n%s;\n", create)
		fmt.Fprintf(&b, "INSERT INTO %s (version_id, is_applied) VALUES (0, true);\n", VersionTable)
	}
	for _, s := range sources() {
		if s.version <= from {
			continue
		}
		fmt.Fprintf(&b, "%s\nINSERT INTO %s (version_id, is_applied) VALUES (%d, true);\n", s.sql, VersionTable, s.version)
	}
	return b.String(), nil
}

// versionTableSQL asks goose for its own statement, so that the two never
// differ.
func versionTableSQL() (string, error) {
	store, err := database.NewStore(database.DialectPostgres, VersionTable)
	if err != nil {
		return "", err
	}
	var rec recorder
	if err := store.CreateVersionTable(context.Background(), &rec); err != nil {
		return "", err
	}
	return rec.statement, nil
}

// recorder is a connection that keeps the statement instead of running it.
type recorder struct {
	database.DBTxConn
	statement string
}

func (r *recorder) ExecContext(_ context.Context, query string, _ ...any) (sql.Result, error) {
	r.statement = query
	return nil, nil
}

type source struct {
	version int64
	sql     string // the file without goose's annotations
}

// sources lists the embedded migrations by version. They are part of the
// program, so a file that cannot be read is a bug in it.
func sources() []source {
	names, err := fs.Glob(files, "*.sql") // sorted; the version leads, zero-padded
	if err != nil || len(names) == 0 {
		panic("migrations: no embedded files")
	}
	var list []source
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			panic("migrations: " + err.Error())
		}
		text, err := files.ReadFile(name)
		if err != nil {
			panic("migrations: " + err.Error())
		}
		list = append(list, source{version, plainSQL(string(text))})
	}
	return list
}

// plainSQL drops goose's annotations. The files have no Down part: taking the
// schema back is teardown's business.
func plainSQL(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "-- +goose") {
			b.WriteString(line)
		}
	}
	return strings.TrimSpace(b.String())
}
