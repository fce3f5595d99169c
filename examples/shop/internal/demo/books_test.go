package demo

import (
	"testing"

	"github.com/outboxd/outboxd/examples/shop/internal/monolithtest"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

func TestBooks(t *testing.T) {
	db := monolithtest.Open(t)
	order := func() {
		monolithtest.Exec(t, db, `INSERT INTO orders (customer, sku, quantity) VALUES ('ada', 'tea', 1)`)
	}
	write := func(kind, order, what string) {
		monolithtest.Exec(t, db, `INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), $1, $2, $3)`, kind, order, what)
	}
	for _, step := range []struct {
		name string
		do   func()
		want books
	}{
		{"nothing", func() {}, books{}},
		{"an order without event", order, books{silent: 1}},
		{"its event, but no answer", func() { write("order", "1", "order.placed") }, books{double: 1}},
		{"the answer", func() { write("reservation", "1", "reservation.confirmed") }, books{}},
		{"a second answer", func() { write("reservation", "1", "reservation.rejected") }, books{double: 1}},
		{"a change", func() { write("order", "1", "order.changed") }, books{}},
		{"an event without order", func() { write("order", "2", "order.cancelled") }, books{ghosts: 1}},
		{"its order, which was never placed", order, books{silent: 1}},
	} {
		step.do()
		got, err := readBooks(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		if got != step.want || got.clean() != (step.want == books{}) {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
	db.Close()
	if _, err := readBooks(t.Context(), db); err == nil {
		t.Error("read without a database")
	}
}
