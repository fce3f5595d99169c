package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// counter is a shop that answers everything and remembers what was asked.
type counter struct {
	mu    sync.Mutex
	asked map[string]int
	sick  bool
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[r.Method]++
	switch {
	case c.sick:
		http.Error(w, "no database", http.StatusInternalServerError)
	case strings.Contains(string(body), `"dan"`):
		w.WriteHeader(http.StatusPaymentRequired)
	default:
		fmt.Fprintln(w, `{"id": 7}`)
	}
}

func TestBuyers(t *testing.T) {
	shop := &counter{asked: map[string]int{}}
	server := httptest.NewServer(shop)
	defer server.Close()
	b := newBuyers(server.URL)
	for n := range 120 {
		if err := b.buy(n); err != nil {
			t.Fatal(err)
		}
	}
	// Of 120, dan is 12, all of whom are turned away; of the others who come
	// with every third and every fourth number, dan would have been 4 and 0.
	if placed, refused := b.placed.Load(), b.refused.Load(); placed != 108 || refused != 12 {
		t.Errorf("%d placed, %d refused; want 108, 12", placed, refused)
	}
	if a := shop.asked; a["POST"] != 120 || a["PUT"] != 36 || a["DELETE"] != 30 {
		t.Errorf("asked %v, want 120 POST, 36 PUT, 30 DELETE", a)
	}
}

func TestBuyersEnd(t *testing.T) {
	shop := &counter{asked: map[string]int{}}
	server := httptest.NewServer(shop)
	defer server.Close()
	b := newBuyers(server.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := b.run(ctx, 100); err != nil {
		t.Errorf("when the time is over: %v", err)
	}
	if placed := b.placed.Load(); placed < 5 || placed > 21 {
		t.Errorf("%d orders in 200 ms at 100 a second", placed)
	}
	shop.mu.Lock()
	shop.sick = true
	shop.mu.Unlock()
	if err := b.run(t.Context(), 100); err == nil || !strings.Contains(err.Error(), "POST /orders: 500 Internal Server Error: no database") {
		t.Errorf("when the shop is sick: %v", err)
	}
}
