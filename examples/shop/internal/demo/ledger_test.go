package demo

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
)

func TestLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(stations(false))
		sick := errors.New("sick")
		handle := l.note("audit", func(_ context.Context, e inbound.Event) error {
			if e.ID == "x" {
				return sick
			}
			return nil
		})
		if p50, p99 := l.latency("audit", 10); p50 != 0 || p99 != 0 {
			t.Errorf("latency of nothing: %s, %s", p50, p99)
		}
		written := time.Now()
		for n, id := range []string{"a", "b", "a", "c", "d"} {
			time.Sleep(time.Duration(n) * time.Millisecond) // virtual time
			if err := handle(t.Context(), inbound.Event{ID: id, AggregateType: "order", Subject: "7", Time: written, Payload: []byte(id)}); err != nil {
				t.Error(err)
			}
			written = time.Now()
		}
		if err := handle(t.Context(), inbound.Event{ID: "x"}); !errors.Is(err, sick) {
			t.Errorf("the handler's error became %v", err)
		}
		if got := l.distinct("audit"); got != 4 {
			t.Errorf("%d distinct events, want 4", got)
		}
		if got := l.total(); got != 5 {
			t.Errorf("%d deliveries, want 5", got)
		}
		if got := l.deliveries("audit"); len(got) != 5 || got[2].ID != "a" || got[2].Domain != "order/7" {
			t.Errorf("deliveries: %v", got)
		}
		if p50, p99 := l.latency("audit", 10); p50 != 2*time.Millisecond || p99 != 4*time.Millisecond {
			t.Errorf("latency %s, %s; want 2ms, 4ms", p50, p99)
		}
		if p50, _ := l.latency("audit", 2); p50 != 4*time.Millisecond {
			t.Errorf("latency of the last two: %s, want 4ms", p50)
		}
		if got := l.distinct("shop"); got != 0 {
			t.Errorf("the shop has %d events of the audit's", got)
		}
	})
}
