package outbox_test

import (
	"context"
	"database/sql"
	"log"
	"os"

	"github.com/outboxd/outboxd/outbox"
)

// placeOrderSQL stores an order and tells others, with database/sql.
func placeOrderSQL(ctx context.Context, db *sql.DB, id string, total float64) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // has no effect after Commit
	_, err = outbox.WriteSQL(ctx, tx, outbox.Event{
		AggregateType: "order",
		AggregateID:   id,
		Type:          "order.placed",
		Payload:       map[string]any{"id": id, "total": total},
	})
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders (id, total) VALUES ($1, $2)", id, total); err != nil {
		return err
	}
	return tx.Commit()
}

func ExampleWriteSQL() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := placeOrderSQL(context.Background(), db, "4711", 12.5); err != nil {
		log.Print(err)
	}
}
