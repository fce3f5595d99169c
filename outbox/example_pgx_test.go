package outbox_test

import (
	"context"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/outbox"
)

// Order is what the shop sells.
type Order struct {
	ID    string  `json:"id"`
	Total float64 `json:"total"`
}

// placeOrder stores an order and tells others. Both commit, or neither does.
func placeOrder(ctx context.Context, pool *pgxpool.Pool, order Order) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := outbox.Write(ctx, tx, outbox.Event{
			AggregateType: "order",
			AggregateID:   order.ID,
			Type:          "order.placed",
			Payload:       order,
		})
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO orders (id, total) VALUES ($1, $2)", order.ID, order.Total)
		return err
	})
}

func ExampleWrite() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := placeOrder(ctx, pool, Order{ID: "4711", Total: 12.5}); err != nil {
		log.Print(err)
	}
}
