package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// books compare tables with events: whether state and events were written
// together, and whether each event had its effect once. It is what the shop
// gets from writing both in one transaction, as the verdict is what it gets
// from outboxd.
type books struct {
	silent int // orders that no event tells of
	ghosts int // events of orders that do not exist
	double int // order events that reservation did not answer exactly once
}

// readBooks is for when all is at rest.
func readBooks(ctx context.Context, db *pgxpool.Pool) (books, error) {
	var b books
	err := db.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM orders o WHERE NOT EXISTS (
			SELECT FROM outbox e WHERE e.type = 'order.placed' AND e.aggregateid = o.id::text)),
		(SELECT count(*) FROM outbox e WHERE e.aggregatetype = 'order' AND NOT EXISTS (
			SELECT FROM orders o WHERE e.aggregateid = o.id::text)),
		(SELECT abs(count(*) FILTER (WHERE type IN ('order.placed', 'order.changed'))
			- count(*) FILTER (WHERE type IN ('reservation.confirmed', 'reservation.rejected'))) FROM outbox)`).
		Scan(&b.silent, &b.ghosts, &b.double)
	if err != nil {
		return b, fmt.Errorf("compare the tables with the events: %w", err)
	}
	return b, nil
}

func (b books) clean() bool { return b == books{} }

func (b books) String() string {
	return fmt.Sprintf("orders without event %d, events without order %d, effects missing or double %d", b.silent, b.ghosts, b.double)
}
