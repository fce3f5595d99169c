// Package monolith is the database that all contexts of the shop share.
package monolith

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed schema.sql
var schema string

// Create makes the shop's tables and fills its shelves. The event table is not
// among them: `outboxd setup` makes that.
func Create(ctx context.Context, db *pgxpool.Pool) error {
	if _, err := db.Exec(ctx, schema); err != nil {
		return fmt.Errorf("create the shop's tables: %w", err)
	}
	return nil
}
