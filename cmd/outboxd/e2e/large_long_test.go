//go:build long && !embedded

package e2e_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv"
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
