//go:build long && !embedded

package e2e_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// TestLongLargeEvent: an event of 100 MB goes through each broker that is
// configured to take it, and is parked when not, also when only the broker
// itself knows that.
func TestLongLargeEvent(t *testing.T) {
	largeEvents(t, limitedBrokers, 100_000_000)
	t.Run("unknown limit", func(t *testing.T) {
		largeEvents(t, map[string]func(t *testing.T, low, high int) limited{"Kafka": refusingKafka, "RabbitMQ": refusingRabbitMQ}, 100_000_000)
	})
}

// refusingKafka is limitedKafka for a relay that was told another limit.
func refusingKafka(t *testing.T, low, high int) limited {
	end := limitedKafka(t, low, high)
	flags := end.args()
	flags[1] += "?max_message_bytes=" + strconv.Itoa(high)
	end.args = func() []string { return flags }
	return end
}

// refusingRabbitMQ has a server of its own, whose limit it changes.
func refusingRabbitMQ(t *testing.T, low, high int) limited {
	server, err := devenv.StartRabbitMQ(t.Context(), devenv.RabbitMQOptions{Config: fmt.Sprintf("max_message_size = %d", low)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	end := newRabbitEnd(t, server.URL())
	flags := end.flags()
	flags[1] += "?max_message_size=" + strconv.Itoa(high)
	return limited{end, func() []string { return flags }, func() {
		if _, err := server.Ctl(t.Context(), "eval", fmt.Sprintf("application:set_env(rabbit, max_message_size, %d).", high)); err != nil {
			t.Fatal(err)
		}
	}}
}

// TestLongLargeBytea: beside a column of a type that the relay reads as text, a
// bytea comes in hexadecimal, which is twice as long. From PostgreSQL 15 on such
// a column stays out of the publication.
func TestLongLargeBytea(t *testing.T) {
	const size = 100_000_000
	end := limitedKafka(t, 2*size, 2*size)
	database := devtest.DatabaseOn(t, devtest.PostgresVersion(t, "14").URL("postgres", "postgres"))
	l := &large{t: t, site: newSite(t, database, "--payload", "bytea"), end: end, size: size}
	l.site.exec("ALTER TABLE outbox ADD COLUMN weight numeric")
	r := l.site.run(end.args()...)
	r.ready()
	l.write(func(_ outbox.Table, ctx context.Context, tx pgx.Tx, events ...outbox.Event) ([]outbox.ID, error) {
		e := events[0]
		_, err := tx.Exec(ctx, "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ($1, $2, $3, $4, $5)",
			e.ID.String(), e.AggregateType, e.AggregateID, e.Type, e.Payload)
		return nil, err
	}, "big", size)
	l.arrived(1)
	l.ends(r, "published from hexadecimal")
	judge(t, &l.history, end, 0)
}
