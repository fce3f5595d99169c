package outbox_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/outbox"
)

// The benchmarks report what a call costs as a multiple of the plainest thing
// a service does in a transaction: a prepared INSERT of one row of about the
// same size. Both are measured in turn, so that a busy machine slows both.

func BenchmarkWrite1(b *testing.B)   { benchmark(b, 1, outbox.Write) }
func BenchmarkWrite100(b *testing.B) { benchmark(b, 100, outbox.Write) }
func BenchmarkEmit1(b *testing.B)    { benchmark(b, 1, outbox.Emit) }
func BenchmarkEmit100(b *testing.B)  { benchmark(b, 100, outbox.Emit) }

func benchmark(b *testing.B, n int, write func(context.Context, pgx.Tx, ...outbox.Event) ([]outbox.ID, error)) {
	conn := connect(b, createOutbox, "CREATE TABLE shop_order (id uuid NOT NULL, customer text NOT NULL, state text NOT NULL, content json)")
	content := `{"text":"` + strings.Repeat("x", 300) + `"}`
	events := make([]outbox.Event, n)
	for i := range events {
		events[i] = order([]byte(content))
		events[i].Headers = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	}
	tx := begin(b, conn)
	defer tx.Rollback(context.Background())
	var plain, ours time.Duration
	for b.Loop() {
		start := time.Now()
		_, err := tx.Exec(b.Context(), "INSERT INTO shop_order (id, customer, state, content) VALUES ($1, $2, $3, $4)",
			outbox.NewID(), "42", "placed", content)
		if err != nil {
			b.Fatal(err)
		}
		plain += time.Since(start)
		start = time.Now()
		if _, err := write(b.Context(), tx, events...); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(plain), "×insert")
	b.ReportMetric(float64(ours)/float64(plain)/float64(n), "×insert/event")
}
