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

// KafkaCluster returns the three brokers that this process shares, which no
// other process uses. A test that takes one of them away does not run beside
// others, and brings it back.
func KafkaCluster(t testing.TB) *devenv.KafkaCluster {
	t.Helper()
	return get(t, &shared, "a Kafka cluster", devenv.StartKafkaCluster)
}
