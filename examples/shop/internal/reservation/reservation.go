// Package reservation lays goods aside for orders. Its trilateral API:
//
//	synchronous  api.go        GET /stock/{sku}
//	published    publishes.go  reservation.confirmed, .rejected, .released
//	consumed     consumes.go   order.placed, order.changed, order.cancelled
package reservation

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Reservation is the context. Its methods may be called at once.
type Reservation struct {
	db *pgxpool.Pool
}

// New returns the context on the database.
func New(db *pgxpool.Pool) *Reservation { return &Reservation{db} }

// hold lays quantity aside for the order, all or nothing, and reports whether
// there was enough. What the order held before counts towards it.
func hold(ctx context.Context, tx pgx.Tx, order int64, sku string, quantity int) (bool, error) {
	var held int
	err := tx.QueryRow(ctx, `SELECT quantity FROM reservations WHERE order_id = $1 FOR UPDATE`, order).Scan(&held)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return false, fmt.Errorf("read reservation: %w", err)
	}
	enough, err := take(ctx, tx, sku, quantity-held)
	if err != nil || !enough {
		return false, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO reservations (order_id, sku, quantity) VALUES ($1, $2, $3)
		ON CONFLICT (order_id) DO UPDATE SET quantity = excluded.quantity`, order, sku, quantity)
	if err != nil {
		return false, fmt.Errorf("write reservation: %w", err)
	}
	return true, nil
}

// release puts back what the order holds, and reports whether it held anything.
func release(ctx context.Context, tx pgx.Tx, order int64) (bool, error) {
	var sku string
	var held int
	err := tx.QueryRow(ctx, `DELETE FROM reservations WHERE order_id = $1 RETURNING sku, quantity`, order).Scan(&sku, &held)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete reservation: %w", err)
	}
	return take(ctx, tx, sku, -held)
}

// take takes goods off the shelf, a negative quantity puts them back. It
// reports whether there were enough.
func take(ctx context.Context, tx pgx.Tx, sku string, quantity int) (bool, error) {
	tag, err := tx.Exec(ctx, `UPDATE stock SET available = available - $2 WHERE sku = $1 AND available >= $2`, sku, quantity)
	if err != nil {
		return false, fmt.Errorf("take %d of %s: %w", quantity, sku, err)
	}
	return tag.RowsAffected() == 1, nil
}
