package devenv_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/devenv"
)

func TestKfake(t *testing.T) {
	ctx := testContext(t)
	k, err := devenv.StartKfake()
	if err != nil {
		t.Fatal(err)
	}
	if err := produce(ctx, k.Brokers(), "value"); err != nil {
		t.Fatal(err)
	}
	if got, err := lastRecord(ctx, k.Brokers()); err != nil || got != "value" {
		t.Errorf("last record = %q, %v; want value", got, err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
}

const topic = "kept"

func produce(ctx context.Context, brokers []string, value string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.AllowAutoTopicCreation())
	if err != nil {
		return err
	}
	defer client.Close()
	return client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr()
}

// lastRecord reads the record before the end of the topic's only partition.
func lastRecord(ctx context.Context, brokers []string) (string, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return "", err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		return "", err
	}
	end, ok := ends.Lookup(topic, 0)
	if !ok || end.Err != nil {
		return "", fmt.Errorf("find the end of %s: %w", topic, end.Err)
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(end.Offset - 1)}})
	fetches := client.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		return "", err
	}
	return string(fetches.Records()[0].Value), nil
}
