package audit_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/examples/shop/internal/audit"
	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/examples/shop/internal/monolithtest"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

func TestMain(m *testing.M) { devtest.Main(m) }

func TestTrail(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	a := audit.New(db)
	at := time.Date(2018, 11, 24, 20, 15, 0, 0, time.UTC)
	event := func(position, kind, order string) inbound.Event {
		return inbound.Event{ID: outbox.NewID().String(), Position: position, Type: kind, Subject: order, Time: at, Payload: []byte(`{"a": 1}`)}
	}
	// In the order in which two topics may come, one of them twice.
	again := event("0002", "reservation.confirmed", "7")
	for _, e := range []inbound.Event{again, event("0001", "order.placed", "7"), again, event("000A", "order.changed", "7"), event("0003", "order.placed", "8")} {
		if err := a.Handle(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	a.Routes(mux)
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	code, body := get("/audit/7")
	types := strings.Join(regexp.MustCompile(`"type":"[^"]*"`).FindAllString(body, -1), " ")
	if want := `"type":"order.placed" "type":"reservation.confirmed" "type":"order.changed"`; code != 200 || types != want {
		t.Errorf("trail of order 7: %d %s, want %s", code, types, want)
	}
	if want := `"position":"0001","content":{"a":1}`; !strings.Contains(body, want) {
		t.Errorf("trail of order 7: %s, want it to contain %s", body, want)
	}
	for _, path := range []string{"/audit/9", "/audit/tea"} {
		if code, body := get(path); code != 404 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	db.Close()
	if code, _ := get("/audit/7"); code != 500 {
		t.Errorf("without a database: %d", code)
	}
	if err := a.Handle(t.Context(), again); err == nil {
		t.Error("handled without a database")
	}
}
