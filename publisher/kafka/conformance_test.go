package kafka_test

import (
	"testing"

	"github.com/outboxd/outboxd/publisher/publishertest"
)

func TestConformanceFake(t *testing.T) {
	publishertest.Run(t, backend(func(t testing.TB) []string { return fakeCluster(t).ListenAddrs() }))
}
