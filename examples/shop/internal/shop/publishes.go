package shop

import (
	"strconv"

	"github.com/outboxd/outboxd/outbox"
)

// What the shop tells others. By default outboxd publishes it to the topic
// outbox.event.order, with the order's number as key.
const (
	Placed    = "order.placed"
	Changed   = "order.changed"
	Cancelled = "order.cancelled"
)

// fact is the content of the events. It is a promise to others and therefore
// not Order, which is free to change.
type fact struct {
	Order    int64  `json:"order"`
	Customer string `json:"customer"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

func event(kind string, o Order) outbox.Event {
	return outbox.Event{
		AggregateType: "order",
		AggregateID:   strconv.FormatInt(o.ID, 10),
		Type:          kind,
		Payload:       fact{Order: o.ID, Customer: o.Customer, SKU: o.SKU, Quantity: o.Quantity},
	}
}
