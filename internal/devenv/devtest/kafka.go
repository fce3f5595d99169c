//go:build !embedded

package devtest

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv"
)

// Kafka returns the addresses of a real Kafka broker: those of
// OUTBOXD_TEST_KAFKA, else of the one that this process shares. Topics are
// created when a client allows it (kgo.AllowAutoTopicCreation), or with kadm.
func Kafka(t testing.TB) []string {
	t.Helper()
	if brokers := os.Getenv("OUTBOXD_TEST_KAFKA"); brokers != "" {
		return strings.Split(brokers, ",")
	}
	return get(t, &shared, "Kafka", func(ctx context.Context) (*devenv.Kafka, error) {
		return devenv.StartKafka(ctx, devenv.KafkaOptions{})
	}).Brokers()
}
