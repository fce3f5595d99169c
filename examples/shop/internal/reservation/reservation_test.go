package reservation_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/examples/shop/internal/monolithtest"
	"github.com/outboxd/outboxd/examples/shop/internal/reservation"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// order is an event of the shop.
func order(kind string, order int, sku string, quantity int) inbound.Event {
	return inbound.Event{
		ID: outbox.NewID().String(), Type: kind, Subject: fmt.Sprint(order),
		Payload: fmt.Appendf(nil, `{"order": %d, "customer": "ada", "sku": %q, "quantity": %d}`, order, sku, quantity),
	}
}

func available(t *testing.T, db *pgxpool.Pool, sku string) int {
	t.Helper()
	return monolithtest.Int(t, db, `SELECT available FROM stock WHERE sku = $1`, sku)
}

func TestHandle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		events []inbound.Event
		left   int // of 25 samovars
		want   []string
	}{
		{"placed", []inbound.Event{order("order.placed", 1, "samovar", 10)}, 15, []string{
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":10}`}},
		{"the last one", []inbound.Event{order("order.placed", 1, "samovar", 25)}, 0, []string{
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":25}`}},
		{"too many", []inbound.Event{order("order.placed", 1, "samovar", 26)}, 25, []string{
			`1 reservation.rejected {"order":1,"sku":"samovar","quantity":26}`}},
		{"unknown goods", []inbound.Event{order("order.placed", 1, "spoon", 1)}, 25, []string{
			`1 reservation.rejected {"order":1,"sku":"spoon","quantity":1}`}},
		{"changed to more than is left", []inbound.Event{order("order.placed", 1, "samovar", 20), order("order.changed", 1, "samovar", 24)}, 1, []string{
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":20}`,
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":24}`}},
		{"changed to less", []inbound.Event{order("order.placed", 1, "samovar", 20), order("order.changed", 1, "samovar", 3)}, 22, []string{
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":20}`,
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":3}`}},
		{"changed to too many", []inbound.Event{order("order.placed", 1, "samovar", 20), order("order.changed", 1, "samovar", 26)}, 5, []string{
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":20}`,
			`1 reservation.rejected {"order":1,"sku":"samovar","quantity":26}`}},
		{"cancelled", []inbound.Event{order("order.placed", 1, "samovar", 20), order("order.cancelled", 1, "samovar", 20)}, 25, []string{
			`1 reservation.confirmed {"order":1,"sku":"samovar","quantity":20}`,
			`1 reservation.released {"order":1,"sku":"samovar","quantity":20}`}},
		{"cancelled without goods", []inbound.Event{order("order.cancelled", 1, "samovar", 20)}, 25, nil},
		{"of a newer shop", []inbound.Event{order("order.gifted", 1, "samovar", 20)}, 25, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := monolithtest.Open(t)
			r := reservation.New(db)
			// Each event comes twice, and then all of them once more, as after
			// the crash of a relay.
			for _, e := range slices.Concat(c.events, c.events) {
				for range 2 {
					if err := r.Handle(t.Context(), e); err != nil {
						t.Fatal(err)
					}
				}
			}
			if left := available(t, db, "samovar"); left != c.left {
				t.Errorf("%d samovars left, want %d", left, c.left)
			}
			if got := monolithtest.Events(t, db); !slices.Equal(got, c.want) {
				t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// What fails leaves nothing: the next delivery finds the event unseen.
func TestFailureLeavesTheEventUnseen(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	r := reservation.New(db)
	e := order("order.placed", 1, "samovar", 10)
	monolithtest.Exec(t, db, `ALTER TABLE outbox RENAME TO away`)
	if err := r.Handle(t.Context(), e); err == nil {
		t.Fatal("handled without an event table")
	}
	if left := available(t, db, "samovar"); left != 25 {
		t.Errorf("%d samovars left, want 25", left)
	}
	monolithtest.Exec(t, db, `ALTER TABLE away RENAME TO outbox`)
	if err := r.Handle(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if left := available(t, db, "samovar"); left != 15 {
		t.Errorf("%d samovars left, want 15", left)
	}
	e.Payload = []byte("ten samovars")
	if err := r.Handle(t.Context(), e); err == nil || !strings.Contains(err.Error(), "read the order") {
		t.Errorf("an order that is not JSON: %v", err)
	}
}

// Two members that get one event at once, as in the moment of a rebalance,
// handle it once.
func TestOneEventAtOnce(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	r := reservation.New(db)
	e := order("order.placed", 1, "samovar", 10)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := r.Handle(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left, n := available(t, db, "samovar"), len(monolithtest.Events(t, db)); left != 15 || n != 1 {
		t.Errorf("%d samovars left and %d events, want 15 and 1", left, n)
	}
}

func TestAPI(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	mux := http.NewServeMux()
	reservation.New(db).Routes(mux)
	for path, want := range map[string]string{
		"/stock/samovar": "200 {\"sku\":\"samovar\",\"available\":25}\n",
		"/stock/spoon":   "404 no such goods\n",
		"/stock/%00":     "500 ",
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if got := fmt.Sprintf("%d %s", w.Code, w.Body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
