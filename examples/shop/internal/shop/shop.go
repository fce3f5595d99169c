// Package shop takes orders. Its trilateral API:
//
//	synchronous  api.go        POST /orders, GET PUT DELETE /orders/{id}
//	published    publishes.go  order.placed, order.changed, order.cancelled
//	consumed     consumes.go   reservation.confirmed, .rejected, .released
package shop

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/outbox"
)

// Order is an order as the shop has it.
type Order struct {
	ID       int64  `json:"id"`
	Customer string `json:"customer"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
	State    string `json:"state"`    // placed or cancelled
	Reserved bool   `json:"reserved"` // eventually: see consumes.go
}

var (
	// ErrNotFound means that no such order can be had, changed or cancelled.
	ErrNotFound = errors.New("no such open order")
	// ErrNoCredit means that the customer cannot pay for the order.
	ErrNoCredit = errors.New("the customer's credit does not cover the order")
)

// Shop is the context. Its methods may be called at once.
type Shop struct {
	db *pgxpool.Pool
}

// New returns a shop on the database.
func New(db *pgxpool.Pool) *Shop { return &Shop{db} }

// Place takes an order. The order, the event that tells of it and the payment
// are one transaction: when the credit does not suffice there is neither an
// order nor an event, although both were written.
func (s *Shop) Place(ctx context.Context, o Order) (Order, error) {
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `INSERT INTO orders (customer, sku, quantity) VALUES ($1, $2, $3) RETURNING id, state`,
			o.Customer, o.SKU, o.Quantity).Scan(&o.ID, &o.State)
		if err != nil {
			return fmt.Errorf("insert order: %w", err)
		}
		if _, err := outbox.Write(ctx, tx, event(Placed, o)); err != nil {
			return err
		}
		return charge(ctx, tx, o.Customer, o.Quantity)
	})
	return o, err
}

// Change orders another quantity.
func (s *Shop) Change(ctx context.Context, id int64, quantity int) (Order, error) {
	var o Order
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		before, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		o = before
		o.Quantity = quantity
		if _, err := tx.Exec(ctx, `UPDATE orders SET quantity = $2 WHERE id = $1`, id, quantity); err != nil {
			return fmt.Errorf("change order %d: %w", id, err)
		}
		if _, err := outbox.Write(ctx, tx, event(Changed, o)); err != nil {
			return err
		}
		return charge(ctx, tx, o.Customer, quantity-before.Quantity)
	})
	return o, err
}

// Cancel gives the order up and the money back.
func (s *Shop) Cancel(ctx context.Context, id int64) (Order, error) {
	var o Order
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		var err error
		if o, err = lock(ctx, tx, id); err != nil {
			return err
		}
		o.State = "cancelled"
		if _, err := tx.Exec(ctx, `UPDATE orders SET state = $2 WHERE id = $1`, id, o.State); err != nil {
			return fmt.Errorf("cancel order %d: %w", id, err)
		}
		if _, err := outbox.Write(ctx, tx, event(Cancelled, o)); err != nil {
			return err
		}
		return charge(ctx, tx, o.Customer, -o.Quantity)
	})
	return o, err
}

// Get returns the order.
func (s *Shop) Get(ctx context.Context, id int64) (Order, error) {
	return scan(s.db.QueryRow(ctx, `SELECT `+columns+` FROM orders WHERE id = $1`, id))
}

// lock returns an open order that nobody else can change before tx ends. Events
// of one order are published as they commit; the lock makes that the order in
// which they were written.
func lock(ctx context.Context, tx pgx.Tx, id int64) (Order, error) {
	return scan(tx.QueryRow(ctx, `SELECT `+columns+` FROM orders WHERE id = $1 AND state = 'placed' FOR UPDATE`, id))
}

const columns = `id, customer, sku, quantity, state, reserved`

func scan(row pgx.Row) (Order, error) {
	var o Order
	err := row.Scan(&o.ID, &o.Customer, &o.SKU, &o.Quantity, &o.State, &o.Reserved)
	if errors.Is(err, pgx.ErrNoRows) {
		return o, ErrNotFound
	}
	if err != nil {
		return o, fmt.Errorf("read order: %w", err)
	}
	return o, nil
}

// charge takes an amount off the customer's credit, or gives it back. A unit of
// anything costs one.
func charge(ctx context.Context, tx pgx.Tx, customer string, amount int) error {
	tag, err := tx.Exec(ctx, `UPDATE customers SET credit = credit - $2 WHERE id = $1 AND credit >= $2`, customer, amount)
	if err != nil {
		return fmt.Errorf("charge %s: %w", customer, err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNoCredit
	}
	return nil
}
