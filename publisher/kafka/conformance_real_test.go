//go:build !embedded

package kafka_test

import (
	"testing"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

func TestConformanceReal(t *testing.T) {
	publishertest.Run(t, backend(func(t testing.TB) []string { return devtest.Kafka(t) }))
}
