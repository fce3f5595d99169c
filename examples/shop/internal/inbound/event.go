// Package inbound is how events reach a context. It knows brokers and nothing
// of the shop; a context hands it a [Handler] and does not know brokers.
//
// Both ways deliver at least once: an event is acknowledged after it was
// handled, so one that is on its way when something dies comes again. A handler
// must come to the same end when it does. The contexts show three ways: an
// inbox (reservation), a primary key (audit, notification), and a state where
// the last event decides (shop).
package inbound

import (
	"context"
	"time"
)

// Event is what outboxd publishes of an outbox.Event. Kafka and RabbitMQ carry
// the same attributes, those of CloudEvents 1.0, as headers.
type Event struct {
	// ID is the same each time the event comes: deduplicate by it.
	ID string
	// Position rises with the commits. It compares as text, and means something
	// between events of one aggregate.
	Position string
	// AggregateType and Subject name the aggregate: "order", "4711".
	AggregateType, Subject string
	Type                   string    // "order.placed"
	Time                   time.Time // of the transaction that wrote it
	Payload                []byte
	// Place is where the broker had it, for people.
	Place string
}

// Handler does what an event asks for. When it returns an error the event
// counts as not handled, and so do those behind it.
type Handler func(ctx context.Context, e Event) error
