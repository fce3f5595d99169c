package parked

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
)

// queryError names why a query on the table failed. It goes by SQLSTATE alone:
// messages are in the language of the server.
func queryError(doing string, err error) error {
	e := &cdc.Error{Code: cdc.CodeUnreachable, Detail: doing, Err: err}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return e
	}
	switch pgErr.Code {
	case "42P01", "3F000", "42703":
		e.Code, e.Detail = cdc.CodeNotSetUp, doing+": the schema outboxd of this database is missing, or older than this program"
		e.Fix = "outboxd setup brings the schema up to date"
	case "42501":
		e.Code, e.Fix = cdc.CodePrivilege, "run outboxd setup with --relay-role, which grants what the relay needs"
	}
	return e
}
