package audit

import (
	"context"
	"fmt"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
)

// Subscription is what audit listens to: all topics, in a group of its own, so
// that it takes nothing from the others.
func Subscription() inbound.Subscription {
	return inbound.Subscription{Group: "audit", Topics: []string{"outbox.event.order", "outbox.event.reservation"}}
}

// Handle adds the event to the trail. Its id is the primary key, so an event
// that comes again changes nothing.
func (a *Audit) Handle(ctx context.Context, e inbound.Event) error {
	_, err := a.db.Exec(ctx, `INSERT INTO audit_trail (event_id, order_id, position, type, happened_at, content)
		VALUES ($1, $2::text::bigint, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		e.ID, e.Subject, e.Position, e.Type, e.Time, string(e.Payload))
	if err != nil {
		return fmt.Errorf("write the trail: %w", err)
	}
	return nil
}
