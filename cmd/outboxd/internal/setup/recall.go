package setup

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
)

// Recall returns id with the names that the pipeline's row in the database has,
// in place of those that were not given; given is asked for "slot",
// "publication" and "table". Where there is no such row, or it cannot be read,
// id is returned as it is: who goes on with it meets that again, by its name.
// The error is a *cdc.Error and says that there is no connection.
func Recall(ctx context.Context, database string, id Identity, given func(name string) bool) (Identity, error) {
	if given("slot") && given("publication") && given("table") {
		return id, nil
	}
	config, err := pgx.ParseConfig(database)
	if err != nil {
		return id, &cdc.Error{Code: cdc.CodeConfig, Detail: "the database URL cannot be read", Err: err, Fix: "see --database"}
	}
	conn, err := connect(ctx, config)
	if err != nil {
		return id, err
	}
	defer closeConn(ctx, conn)
	w, err := readWitness(ctx, conn, id.Pipeline)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) || err == nil && w == nil:
		return id, nil
	case err != nil:
		return id, &cdc.Error{Code: cdc.CodeUnreachable, Detail: fmt.Sprintf("look up pipeline %s", id.Pipeline), Err: err}
	}
	if !given("slot") {
		id.Slot = w.slot
	}
	if !given("publication") {
		id.Publication = w.publication
	}
	if !given("table") {
		id.setTable(w.table)
	}
	return id, nil
}
