//go:build !embedded

package e2e_test

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// newReal is newCluster on a real broker.
func newReal(t *testing.T, brokers []string) *cluster {
	t.Helper()
	return newCluster(t, "kafka://"+strings.Join(brokers, ","), kgo.SeedBrokers(brokers...))
}

func TestMissingTopicOfKafka(t *testing.T) {
	t.Parallel()
	missingTopic(t, newReal(t, devtest.Kafka(t)))
}

func TestOversizedEventForKafka(t *testing.T) {
	t.Parallel()
	oversizedEvent(t, newReal(t, devtest.Kafka(t)))
}

// TestStopWhileKafkaHangs: a broker that was stopped in the middle keeps its
// connections open and answers nothing.
func TestStopWhileKafkaHangs(t *testing.T) {
	t.Parallel()
	kafka, err := devenv.StartKafka(t.Context(), devenv.KafkaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Close() })
	stopWhileBrokerHangs(t, newReal(t, kafka.Brokers()), do(t, kafka.Freeze), do(t, kafka.Thaw))
}

// do is a function that fails the test when what it calls does.
func do(t *testing.T, call func() error) func() {
	return func() {
		if err := call(); err != nil {
			t.Error(err)
		}
	}
}
