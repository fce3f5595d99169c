package reservation

import (
	"strconv"

	"github.com/outboxd/outboxd/outbox"
)

// What reservation tells others, about the order with the number that is the
// key. It goes the same way as the shop's events: into the same table, in the
// transaction that makes it true.
const (
	Confirmed = "reservation.confirmed"
	Rejected  = "reservation.rejected" // what was held before is still held
	Released  = "reservation.released"
)

// fact is the content of the events.
type fact struct {
	Order    int64  `json:"order"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

func event(kind string, f fact) outbox.Event {
	return outbox.Event{
		AggregateType: "reservation",
		AggregateID:   strconv.FormatInt(f.Order, 10),
		Type:          kind,
		Payload:       f,
	}
}
