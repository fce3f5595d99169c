package shop

import (
	"context"
	"fmt"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
)

// Subscription is what the shop listens to.
func Subscription() inbound.Subscription {
	return inbound.Subscription{Group: "shop", Topics: []string{"outbox.event.reservation"}}
}

// Handle notes whether goods lie ready. Events of an order come in their order,
// also when some come again: the last one decides, and nothing has to be
// deduplicated.
func (s *Shop) Handle(ctx context.Context, e inbound.Event) error {
	var reserved bool
	switch e.Type {
	case "reservation.confirmed":
		reserved = true
	case "reservation.rejected", "reservation.released":
	default:
		return nil // of a newer reservation context: no business of ours
	}
	if _, err := s.db.Exec(ctx, `UPDATE orders SET reserved = $2 WHERE id = $1::text::bigint`, e.Subject, reserved); err != nil {
		return fmt.Errorf("note reservation of order %s: %w", e.Subject, err)
	}
	return nil
}
