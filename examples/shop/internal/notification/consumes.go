package notification

import (
	"context"
	"fmt"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
)

// Queue is what notification listens to. Unlike a Kafka topic it is a heap of
// work: any number of consumers share it, and a mail is sent by one of them.
func Queue() inbound.Queue {
	return inbound.Queue{Name: "notification", Exchange: "outbox", Patterns: []string{"reservation.*"}}
}

// Handle sends the mail that an event is worth. Sending is a row here, whose
// key keeps a second mail from being sent when the event comes again.
func (n *Notification) Handle(ctx context.Context, e inbound.Event) error {
	subject := map[string]string{
		"reservation.confirmed": "Your goods lie ready",
		"reservation.rejected":  "We do not have that many",
		"reservation.released":  "Your order is cancelled",
	}[e.Type]
	if subject == "" {
		return nil // of a newer reservation context: no business of ours
	}
	_, err := n.db.Exec(ctx, `INSERT INTO mails (event_id, order_id, subject) VALUES ($1, $2::text::bigint, $3) ON CONFLICT DO NOTHING`,
		e.ID, e.Subject, subject)
	if err != nil {
		return fmt.Errorf("send mail: %w", err)
	}
	return nil
}
