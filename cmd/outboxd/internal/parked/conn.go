package parked

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
)

const connectTimeout = 10 * time.Second

// connect opens a connection whose commits are durable and which no lock holds
// for long.
func connect(ctx context.Context, database, name string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(database)
	if err != nil {
		return nil, &cdc.Error{Code: cdc.CodeConfig, Detail: "read the database's connection string", Err: err, Fix: "see --database"}
	}
	config.RuntimeParams["application_name"] = name
	// No prepared statements: a pooler in between may hand the next query to
	// another server process.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(err)
	}
	if _, err := conn.PgConn().Exec(ctx, "SET synchronous_commit = 'on'; SET lock_timeout = '1s'").ReadAll(); err != nil {
		_ = conn.Close(ctx)
		return nil, connectError(fmt.Errorf("set up the connection: %w", err))
	}
	return conn, nil
}

func connectError(err error) error {
	e := &cdc.Error{Code: cdc.CodeUnreachable, Detail: "connect to the database", Err: err, Fix: "check host, port and whether the server runs"}
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr):
	case strings.HasPrefix(pgErr.Code, "28"):
		e.Code, e.Fix = cdc.CodeAuth, "check user and password in --database, and pg_hba.conf on the server"
	case pgErr.Code == "3D000":
		e.Code, e.Fix = cdc.CodeDatabaseMissing, "check the database's name in --database"
	}
	return e
}

// queryError names why a query on the table failed. It goes by SQLSTATE alone:
// messages are in the language of the server.
func queryError(doing string, err error) error {
	e := &cdc.Error{Code: cdc.CodeUnreachable, Detail: doing, Err: err}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return e
	}
	switch pgErr.Code {
	case "42P01", "3F000":
		e.Code, e.Detail = cdc.CodeNotSetUp, doing+": the schema outboxd of this database is missing, or older than this program"
		e.Fix = "outboxd setup brings the schema up to date"
	case "42501":
		e.Code, e.Fix = cdc.CodePrivilege, "run outboxd setup with --relay-role, which grants what the relay needs"
	}
	return e
}
