package outbox_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The examples need a database, which an Example function is not given: this
// test runs what they show.
func TestExamplesCommitBothOrNeither(t *testing.T) {
	conn := connect(t, createOutbox, "CREATE TABLE orders (id text PRIMARY KEY, total numeric NOT NULL CHECK (total > 0))")
	pool, err := pgxpool.New(t.Context(), conn.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	db := openSQL(t, conn, "pgx")
	for name, place := range map[string]func(id string, total float64) error{
		"pgx":          func(id string, total float64) error { return placeOrder(t.Context(), pool, Order{id, total}) },
		"database/sql": func(id string, total float64) error { return placeOrderSQL(t.Context(), db, id, total) },
		"plain SQL": func(id string, total float64) error {
			_, err := db.ExecContext(t.Context(), placeOrderPlain, id, total)
			return err
		},
	} {
		mustExec(t, conn, "TRUNCATE outbox, orders")
		if err := place("4711", 12.5); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := place("4712", -1); err == nil {
			t.Errorf("%s: an order that the shop refuses was placed", name)
		}
		rows := readAll(t, conn, selectOutbox)
		if len(rows) != 1 || rows[0].AggregateType != "order" || rows[0].AggregateID != "4711" || rows[0].Type != "order.placed" {
			t.Fatalf("%s: events %+v, want that of order 4711", name, rows)
		}
		var order Order
		if err := json.Unmarshal([]byte(text(rows[0].Payload)), &order); err != nil || order != (Order{"4711", 12.5}) {
			t.Errorf("%s: payload %s", name, text(rows[0].Payload))
		}
	}
}

// The statements of the package comment are for those who copy them.
func TestStatementsOfThePackageComment(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	statements := regexp.MustCompile(`(?m)^//\t(INSERT|SELECT) [^;]*;`).FindAllString(string(doc), -1)
	if len(statements) != 2 {
		t.Fatalf("found %d statements, want the INSERT and the message", len(statements))
	}
	conn := connect(t, createOutbox)
	w := newWAL(t, conn)
	for _, statement := range statements {
		mustExec(t, conn, strings.ReplaceAll(statement, "//\t", ""))
	}
	rows, events := readAll(t, conn, selectOutbox), w.events(t)
	if len(rows) != 1 || rows[0].AggregateID != "4711" || text(rows[0].Payload) != `{"total": 12.50}` {
		t.Errorf("the INSERT wrote %+v", rows)
	}
	if len(events) != 1 || events[0].AggregateID != "4711" || string(events[0].Payload) != `{"total" : 12.50}` {
		t.Errorf("the message holds %+v", events)
	}
}
