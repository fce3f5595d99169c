//go:build !embedded

package e2e_test

import (
	"strings"
	"syscall"
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
	signal := func(s syscall.Signal) func() {
		return func() {
			if err := syscall.Kill(kafka.PID(), s); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(signal(syscall.SIGCONT)) // a stopped process cannot be closed
	stopWhileBrokerHangs(t, newReal(t, kafka.Brokers()), signal(syscall.SIGSTOP), signal(syscall.SIGCONT))
}
