package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/outbox"
)

// Several events take one round trip. They are published in this order, and
// without a table.
func ExampleEmit() {
	cancel := func(ctx context.Context, tx pgx.Tx, orderID string) error {
		_, err := outbox.Emit(ctx, tx,
			outbox.Event{AggregateType: "order", AggregateID: orderID, Type: "order.cancelled"},
			outbox.Event{AggregateType: "stock", AggregateID: "A-7", Type: "stock.released", Payload: map[string]int{"count": 1}},
		)
		return err
	}
	_ = cancel
}

// TextMapPropagator and MapCarrier stand for those of OpenTelemetry's package
// propagation.
type (
	TextMapPropagator interface {
		Inject(ctx context.Context, carrier MapCarrier)
	}
	MapCarrier map[string]string
)

// The trace of a request goes on in the consumers of its events.
func ExampleTable_propagate() {
	var propagator TextMapPropagator = fixedTrace{} // otel.GetTextMapPropagator()

	events := outbox.Table{
		Propagate: func(ctx context.Context, set func(name, value string)) {
			carrier := MapCarrier{} // propagation.MapCarrier
			propagator.Inject(ctx, carrier)
			for name, value := range carrier {
				set(name, value)
			}
		},
	}

	events.Propagate(context.Background(), func(name, value string) { fmt.Println(name, value) })
	// Output: traceparent 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
}

type fixedTrace struct{}

func (fixedTrace) Inject(_ context.Context, carrier MapCarrier) {
	carrier["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
}

// All that is wrong is reported at once, before anything is sent.
func ExampleValidationError() {
	var tx pgx.Tx // never used: nothing is sent
	_, err := outbox.Write(context.Background(), tx,
		outbox.Event{AggregateType: "order", Type: "order.placed", Payload: []byte("{")},
		outbox.Event{AggregateType: "order", AggregateID: "4711", Headers: map[string]string{"ce_id": "1"}},
	)
	var invalid *outbox.ValidationError
	if errors.As(err, &invalid) {
		for _, problem := range invalid.Problems {
			fmt.Println(problem)
		}
	}
	// Output:
	// event 0 (type "order.placed"): AggregateID is empty
	// event 0 (type "order.placed"): Payload is not JSON: unexpected end of JSON input at byte 1
	// event 1: Type is empty
	// event 1: Headers name "ce_id" has a prefix reserved for outboxd
}

// A message that was written in SQL.
func ExampleDecodeMessage() {
	message, err := outbox.DecodeMessage([]byte(`{
		"id": "0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44",
		"aggregatetype": "order", "aggregateid": 4711, "type": "order.placed",
		"payload": {"total": 12.50}
	}`))
	if err != nil {
		log.Fatal(err)
	}
	for _, event := range message.Events {
		fmt.Printf("%s of %s %s: %s\n", event.Type, event.AggregateType, event.AggregateID, event.Payload)
	}
	// Output: order.placed of order 4711: {"total": 12.50}
}
