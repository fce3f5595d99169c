package workload

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/checker"
)

// RabbitMQConsumer empties one queue, acknowledging nothing before it is noted.
// It survives restarts of the server. It goes on consuming between calls of
// Read: what is prefetched and given back to the queue comes again, marked, and
// could not be told from a second record of the same event.
type RabbitMQConsumer struct {
	url, queue string
	delivered  []checker.Delivered
	distinct   map[string]bool

	conn       *amqp.Connection // nil: not connected
	deliveries <-chan amqp.Delivery
}

// NewRabbitMQConsumer declares a durable topic exchange and a quorum queue that
// is bound to all of it.
func NewRabbitMQConsumer(url, exchange, queue string) (*RabbitMQConsumer, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.ExchangeDeclare(exchange, "topic", true, false, false, false, nil); err != nil {
		return nil, err
	}
	// One consumer at a time: after a restart the next one would otherwise be
	// served before what the last one had is given back.
	args := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, amqp.SingleActiveConsumerArg: true}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
		return nil, err
	}
	if err := ch.QueueBind(queue, "#", exchange, false, nil); err != nil {
		return nil, err
	}
	return &RabbitMQConsumer{url: url, queue: queue, distinct: map[string]bool{}}, nil
}

// Read reads until done says so of the number of distinct events seen, or ctx
// ends. It may be called again.
func (c *RabbitMQConsumer) Read(ctx context.Context, domain func(key string) string, done func(distinct int) bool) []checker.Delivered {
	for ctx.Err() == nil && !done(len(c.distinct)) {
		if err := c.read(ctx, domain, done); err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	return c.delivered
}

func (c *RabbitMQConsumer) read(ctx context.Context, domain func(string) string, done func(int) bool) error {
	if c.conn == nil {
		if err := c.connect(); err != nil {
			return err
		}
	}
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for !done(len(c.distinct)) {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		case d, ok := <-c.deliveries:
			if !ok {
				c.Close()
				return amqp.ErrClosed
			}
			c.note(d, domain)
			if err := d.Ack(false); err != nil {
				c.Close()
				return err
			}
		}
	}
	return nil
}

func (c *RabbitMQConsumer) connect() error {
	conn, err := amqp.Dial(c.url)
	if err != nil {
		return err
	}
	c.conn = conn
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Qos(500, 0, false)
	}
	if err == nil {
		c.deliveries, err = ch.Consume(c.queue, "", false, false, false, false, nil)
	}
	if err != nil {
		c.Close()
	}
	return err
}

// Close leaves the queue. Read connects again.
func (c *RabbitMQConsumer) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// note adds a delivery. One that the consumer did not get to acknowledge comes
// again, marked; that is the queue's doing, not the relay's.
func (c *RabbitMQConsumer) note(d amqp.Delivery, domain func(string) string) {
	if d.Redelivered && c.distinct[d.MessageId] {
		return
	}
	place := fmt.Sprintf("delivery %d of queue %s", len(c.delivered), c.queue)
	if d.Redelivered {
		place += ", which was given back before"
	}
	text := func(name string) string { s, _ := d.Headers[name].(string); return s }
	c.delivered = append(c.delivered, checker.Delivered{
		ID: d.MessageId, Domain: domain(text("cloudEvents_subject")), Position: text("cloudEvents_sequence"), Replayed: text("outboxd-replayed") != "",
		Place: place, Sum: sha256.Sum256(d.Body),
	})
	c.distinct[d.MessageId] = true
}
