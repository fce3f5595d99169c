// Package outboxtest checks in a service's own tests which events a transaction
// has written. It needs the database and no broker:
//
//	tx := begin(t, pool)
//	defer tx.Rollback(ctx) // the test leaves nothing behind
//
//	placeOrder(ctx, tx, order)
//
//	outboxtest.RequireWritten(t, ctx, tx, outbox.Event{
//		AggregateType: "order",
//		AggregateID:   "4711",
//		Type:          "order.placed",
//		Payload:       map[string]any{"total": 12.5},
//	})
//
// It looks at the rows that the open transaction has added and not deleted,
// also within savepoints, and at no others: tests may share a database. That
// works on every event table, with or without the columns that outboxd adds.
// Functions whose names end in SQL are for database/sql.
//
// Events sent with outbox.Emit are in no table, so no transaction can see them.
package outboxtest
