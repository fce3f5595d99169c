//go:build long

package parked_test

import (
	"net/url"
	"testing"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestLongSlowLine: an event that takes longer to the database than a statement may
// is parked all the same, and read again.
func TestLongSlowLine(t *testing.T) {
	y := newYard(t)
	u, err := url.Parse(y.url)
	if err != nil {
		t.Fatal(err)
	}
	line := devtest.NewProxy(t, u.Host)
	line.Set(devtest.Wire{Rate: 10 << 10}, devtest.Wire{Rate: 10 << 10})
	u.Host = line.Addr
	y.store.Database = u.String()
	lot, _ := y.open()
	e := event(at(0x10, 0), "a", "too_large")
	e.Payload = make([]byte, 700<<10)
	park(t, lot, e)
	if _, err := y.desk().Mark(t.Context(), parked.Selection{All: true}, parked.Retry, ""); err != nil {
		t.Fatal(err)
	}
	m, err := lot.Marked(t.Context(), cdc.Position{}, nil)
	if err != nil || len(m.Retries) != 1 || len(m.Retries[0].Payload) != len(e.Payload) {
		t.Errorf("%d events, %v", len(m.Retries), err)
	}
}
