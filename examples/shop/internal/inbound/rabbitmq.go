package inbound

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Queue is what a context reads from RabbitMQ: a queue of its own, bound to an
// exchange. Every queue gets the events that its patterns match; the consumers
// of one queue compete for them, one event to one of them, in no order between
// them.
type Queue struct {
	Name     string
	Exchange string
	Patterns []string // of routing keys: "reservation.*"
}

// prefetch is how many events a consumer may have that it did not acknowledge.
const prefetch = 20

// Declare makes the exchange, the queue and its bindings, unless they exist.
// outboxd declares nothing: what is listened to is the listeners' business. Do
// it before the events flow.
func (q Queue) Declare(url string) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return fmt.Errorf("declare queue %s: %w", q.Name, err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("declare queue %s: %w", q.Name, err)
	}
	if err := ch.ExchangeDeclare(q.Exchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declare exchange %s: %w", q.Exchange, err)
	}
	if _, err := ch.QueueDeclare(q.Name, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		return fmt.Errorf("declare queue %s: %w", q.Name, err)
	}
	for _, pattern := range q.Patterns {
		if err := ch.QueueBind(q.Name, pattern, q.Exchange, false, nil); err != nil {
			return fmt.Errorf("bind queue %s to %s: %w", q.Name, pattern, err)
		}
	}
	return nil
}

// ConsumeRabbitMQ is one of the queue's consumers: it calls handle for one
// event at a time until ctx ends (then it returns nil), handle returns an
// error, or the connection is lost. What was not handled goes back to the
// queue.
func ConsumeRabbitMQ(ctx context.Context, url string, q Queue, handle Handler) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return fmt.Errorf("consume queue %s: %w", q.Name, err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("consume queue %s: %w", q.Name, err)
	}
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return fmt.Errorf("consume queue %s: %w", q.Name, err)
	}
	deliveries, err := ch.Consume(q.Name, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume queue %s: %w", q.Name, err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case d, ok := <-deliveries:
			if !ok {
				return fmt.Errorf("consume queue %s: %w", q.Name, amqp.ErrClosed)
			}
			if err := handleDelivery(ctx, q, d, handle); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

func handleDelivery(ctx context.Context, q Queue, d amqp.Delivery, handle Handler) error {
	e := fromRabbitMQ(q, d)
	if err := handle(ctx, e); err != nil {
		return fmt.Errorf("handle %s %s at %s: %w", e.Type, e.ID, e.Place, err)
	}
	return d.Ack(false)
}

func fromRabbitMQ(q Queue, d amqp.Delivery) Event {
	e := Event{Payload: d.Body, Place: "queue " + q.Name}
	for name, value := range d.Headers {
		if text, ok := value.(string); ok {
			e.attribute("cloudEvents_", name, text)
		}
	}
	return e
}
