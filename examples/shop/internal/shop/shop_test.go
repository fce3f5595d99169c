package shop_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/examples/shop/internal/monolithtest"
	"github.com/outboxd/outboxd/examples/shop/internal/shop"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

func wantEvents(t *testing.T, db *pgxpool.Pool, want ...string) {
	t.Helper()
	if got := monolithtest.Events(t, db); !slices.Equal(got, want) {
		t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func credit(t *testing.T, db *pgxpool.Pool, customer string) int {
	t.Helper()
	return monolithtest.Int(t, db, `SELECT credit FROM customers WHERE id = $1`, customer)
}

func TestLifeOfAnOrder(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	s := shop.New(db)
	before := credit(t, db, "ada")

	o, err := s.Place(t.Context(), shop.Order{Customer: "ada", SKU: "tea", Quantity: 2})
	if err != nil {
		t.Fatal(err)
	}
	if want := (shop.Order{ID: 1, Customer: "ada", SKU: "tea", Quantity: 2, State: "placed"}); o != want {
		t.Errorf("placed %+v, want %+v", o, want)
	}
	if got := before - credit(t, db, "ada"); got != 2 {
		t.Errorf("charged %d for 2", got)
	}
	if o, err = s.Change(t.Context(), o.ID, 5); err != nil || o.Quantity != 5 {
		t.Errorf("changed to %+v, %v", o, err)
	}
	if got := before - credit(t, db, "ada"); got != 5 {
		t.Errorf("charged %d for 5", got)
	}
	if o, err = s.Cancel(t.Context(), o.ID); err != nil || o.State != "cancelled" {
		t.Errorf("cancelled to %+v, %v", o, err)
	}
	if got := before - credit(t, db, "ada"); got != 0 {
		t.Errorf("charged %d for nothing", got)
	}
	if got, err := s.Get(t.Context(), o.ID); err != nil || got != o {
		t.Errorf("got %+v, %v; want %+v", got, err, o)
	}
	wantEvents(t, db,
		`1 order.placed {"order":1,"customer":"ada","sku":"tea","quantity":2}`,
		`1 order.changed {"order":1,"customer":"ada","sku":"tea","quantity":5}`,
		`1 order.cancelled {"order":1,"customer":"ada","sku":"tea","quantity":5}`)
}

func TestRefusedOrderLeavesNothing(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	s := shop.New(db)
	for _, customer := range []string{"dan", "nobody"} {
		if _, err := s.Place(t.Context(), shop.Order{Customer: customer, SKU: "tea", Quantity: 1}); !errors.Is(err, shop.ErrNoCredit) {
			t.Errorf("%s: %v, want ErrNoCredit", customer, err)
		}
	}
	if n := monolithtest.Int(t, db, `SELECT count(*) FROM orders`); n != 0 {
		t.Errorf("%d orders", n)
	}
	wantEvents(t, db)
}

func TestRefusedChangeLeavesTheOrder(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	s := shop.New(db)
	monolithtest.Exec(t, db, `UPDATE customers SET credit = 3 WHERE id = 'ben'`)
	o, err := s.Place(t.Context(), shop.Order{Customer: "ben", SKU: "cup", Quantity: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Change(t.Context(), o.ID, 4); !errors.Is(err, shop.ErrNoCredit) {
		t.Errorf("%v, want ErrNoCredit", err)
	}
	if got, err := s.Get(t.Context(), o.ID); err != nil || got != o {
		t.Errorf("%+v, %v; want %+v", got, err, o)
	}
	wantEvents(t, db, `1 order.placed {"order":1,"customer":"ben","sku":"cup","quantity":2}`)
}

// Many change one order at once: what the events say last is what the order is,
// because the number of an event rises in the order of the commits.
func TestChangesAtOnce(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	s := shop.New(db)
	o, err := s.Place(t.Context(), shop.Order{Customer: "cleo", SKU: "tea", Quantity: 1})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for quantity := 2; quantity < 12; quantity++ {
		wg.Go(func() {
			if _, err := s.Change(t.Context(), o.ID, quantity); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	last := monolithtest.Int(t, db, `SELECT (payload->>'quantity')::int FROM outbox ORDER BY seq DESC LIMIT 1`)
	if got, err := s.Get(t.Context(), o.ID); err != nil || got.Quantity != last {
		t.Errorf("the order is for %d, the last event says %d (%v)", got.Quantity, last, err)
	}
	if charged := 1_000_000 - credit(t, db, "cleo"); charged != last {
		t.Errorf("charged %d for %d", charged, last)
	}
}

func TestHandle(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	s := shop.New(db)
	o, err := s.Place(t.Context(), shop.Order{Customer: "ada", SKU: "tea", Quantity: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		kind     string
		reserved bool
	}{
		{"reservation.confirmed", true},
		{"reservation.moved", true},
		{"reservation.rejected", false},
		{"reservation.confirmed", true},
		{"reservation.confirmed", true},
		{"reservation.released", false},
	} {
		if err := s.Handle(t.Context(), inbound.Event{Type: step.kind, Subject: "1"}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(t.Context(), o.ID); err != nil || got.Reserved != step.reserved {
			t.Errorf("after %s reserved is %t (%v)", step.kind, got.Reserved, err)
		}
	}
	if err := s.Handle(t.Context(), inbound.Event{Type: "reservation.confirmed", Subject: "one"}); err == nil {
		t.Error("an event of no order was handled")
	}
}

func TestAPI(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	mux := http.NewServeMux()
	shop.New(db).Routes(mux)
	for _, step := range []struct {
		method, path, body string
		status             int
		answer             string // begins with
	}{
		{"POST", "/orders", `{"customer": "ada", "sku": "tea", "quantity": 2}`, 201, `{"id":1,"customer":"ada","sku":"tea","quantity":2,"state":"placed","reserved":false}`},
		{"PUT", "/orders/1", `{"quantity": 3}`, 200, `{"id":1,"customer":"ada","sku":"tea","quantity":3`},
		{"GET", "/orders/1", ``, 200, `{"id":1,"customer":"ada","sku":"tea","quantity":3,"state":"placed"`},
		{"DELETE", "/orders/1", ``, 200, `{"id":1,"customer":"ada","sku":"tea","quantity":3,"state":"cancelled"`},
		{"DELETE", "/orders/1", ``, 404, `no such open order`},
		{"PUT", "/orders/1", `{"quantity": 3}`, 404, `no such open order`},
		{"GET", "/orders/2", ``, 404, `no such open order`},
		{"GET", "/orders/tea", ``, 404, `no such open order`},
		{"POST", "/orders", `{"customer": "dan", "sku": "tea", "quantity": 2}`, 402, `the customer's credit`},
		{"POST", "/orders", `{"customer": "ada", "sku": "tea"}`, 422, `quantity: want 1 to 1000`},
		{"POST", "/orders", `{"customer": "ada", "sku": "tea", "quantity": 1001}`, 422, `quantity: want`},
		{"PUT", "/orders/1", `{"quantity": -1}`, 422, `quantity: want`},
		{"POST", "/orders", `tea, please`, 400, `want a JSON object`},
		{"POST", "/orders", `{"customer": "` + strings.Repeat("a", 5000) + `"}`, 400, `want a JSON object`},
		{"POST", "/orders", `{"customer": "ada", "sku": "\u0000", "quantity": 2}`, 500, `insert order`},
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(step.method, step.path, strings.NewReader(step.body)))
		if w.Code != step.status || !strings.HasPrefix(w.Body.String(), step.answer) {
			t.Errorf("%s %s %.60s: %d %s, want %d %s", step.method, step.path, step.body, w.Code, w.Body, step.status, step.answer)
		}
	}
}
