package reservation

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/outbox"
)

// Subscription is what reservation listens to.
func Subscription() inbound.Subscription {
	return inbound.Subscription{Group: "reservation", Topics: []string{"outbox.event.order"}}
}

// order is what reservation wants to know of an order. The event holds more.
type order struct {
	Order    int64  `json:"order"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Handle answers an order's event with a reservation and an event of its own.
// The inbox, the reservation and the answer are one transaction: each event has
// its effect once, however often it comes and whenever somebody dies.
func (r *Reservation) Handle(ctx context.Context, e inbound.Event) error {
	var o order
	if err := json.Unmarshal(e.Payload, &o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	return pgx.BeginFunc(ctx, r.db, func(tx pgx.Tx) error {
		if again, err := seen(ctx, tx, e.ID); again || err != nil {
			return err
		}
		answer, err := act(ctx, tx, e.Type, o)
		if answer == "" || err != nil {
			return err
		}
		_, err = outbox.Write(ctx, tx, event(answer, fact(o)))
		return err
	})
}

// seen reports whether the event was handled before. If not, it is from now on,
// provided that tx commits; a second consumer of the same event waits for that.
func seen(ctx context.Context, tx pgx.Tx, id string) (bool, error) {
	tag, err := tx.Exec(ctx, `INSERT INTO reservation_inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING`, id)
	if err != nil {
		return false, fmt.Errorf("look into the inbox: %w", err)
	}
	return tag.RowsAffected() == 0, nil
}

// act does what an event of the type asks for, and returns the type of the
// answer, or "" if there is nothing to tell.
func act(ctx context.Context, tx pgx.Tx, kind string, o order) (string, error) {
	switch kind {
	case "order.placed", "order.changed":
		enough, err := hold(ctx, tx, o.Order, o.SKU, o.Quantity)
		if !enough {
			return Rejected, err
		}
		return Confirmed, err
	case "order.cancelled":
		held, err := release(ctx, tx, o.Order)
		if !held {
			return "", err
		}
		return Released, err
	}
	return "", nil // of a newer shop: no business of ours
}
