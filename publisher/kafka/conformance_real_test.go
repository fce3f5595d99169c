//go:build !embedded

package kafka_test

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// TestIllegalTopicReal: the fake cluster takes any name.
func TestIllegalTopicReal(t *testing.T) {
	s := openSession(t, kafka.Config{Brokers: devtest.Kafka(t), CreateTopics: true})
	wantPoison(t, s.pub.Inspect(t.Context(), &publisher.Record{Topic: "no/such topic"}), "bad_topic", kerr.InvalidTopicException)
	wantPoison(t, s.wait(s.publish("no/such topic", "k", nil)), "bad_topic", kerr.InvalidTopicException)
}

func TestCreateTopicsReal(t *testing.T) {
	s := openSession(t, kafka.Config{Brokers: devtest.Kafka(t), CreateTopics: true})
	if err := s.wait(s.publish(devtest.Name(t), "k", nil)); err != nil {
		t.Error(err)
	}
}

func TestMissingTopicReal(t *testing.T) {
	name := devtest.Name(t)
	s := openSession(t, kafka.Config{Brokers: devtest.Kafka(t)})
	wantHeld(t, s.wait(s.publish(name, "k", nil)), "missing_topic", name)
}

func TestReplicationFactorReal(t *testing.T) {
	name := devtest.Name(t)
	s := openSession(t, kafka.Config{Brokers: devtest.Kafka(t), CreateTopics: true, ReplicationFactor: 9})
	held := wantHeld(t, s.wait(s.publish(name, "k", nil)), "missing_topic", name)
	if !strings.Contains(held.Fix, "replication") {
		t.Errorf("fix %q", held.Fix)
	}
}

func TestConformanceReal(t *testing.T) {
	publishertest.Run(t, backend(devtest.Kafka))
}
