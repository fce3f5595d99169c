package replay

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
)

// databaseError names why a query failed, by SQLSTATE. What has no name here is
// worth another attempt.
func databaseError(what string, err error) error {
	e := &cdc.Error{Code: cdc.CodeUnreachable, Detail: what, Err: err}
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr):
		e.Fix = "check host and port in --database (or PGHOST and PGPORT), and whether the server runs"
	case pgErr.Code == "42501":
		e.Code, e.Fix = cdc.CodePrivilege, "outboxd setup --relay-role ROLE grants what a replay needs"
	case strings.HasPrefix(pgErr.Code, "22"): // a value that the column's type cannot have
		e.Code, e.Fix = cdc.CodeConfig, "correct the value in the options"
	case pgErr.Code == "53400": // temp_file_limit
		e.Code, e.Fix = cdc.CodeConfig, "the server sorts the rows on its disk: raise temp_file_limit, or choose fewer rows with --since and --until"
	case strings.HasPrefix(pgErr.Code, "42"):
		e.Code, e.Fix = cdc.CodeConfig, "check --table and --columns"
	}
	return e
}
