package outbox_test

import (
	"context"
	"database/sql"
	"log"
	"os"
)

// placeOrderPlain is what a program in any language can do: one statement, or
// several in a transaction.
const placeOrderPlain = `
	WITH placed AS (
		INSERT INTO orders (id, total) VALUES ($1, $2) RETURNING *
	)
	INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
	SELECT gen_random_uuid(), 'order', id, 'order.placed', to_json(placed) FROM placed`

// Code that is not in Go writes its events in plain SQL.
func Example_plainSQL() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), placeOrderPlain, "4711", 12.5); err != nil {
		log.Print(err)
	}
}
