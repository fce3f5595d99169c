package inbound

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Subscription is what a context reads from Kafka. Each group sees every event;
// the members of one group share the partitions, and with them the aggregates.
type Subscription struct {
	Group  string
	Topics []string
}

const (
	// batch bounds what is handled between two commits of offsets, and so what
	// comes again after a crash.
	batch = 100
	// lookForTopics is how often to look for topics that do not exist yet: they
	// appear with their first event. The client's default is minutes.
	lookForTopics = time.Second
	minMetadata   = 100 * time.Millisecond
)

// ConsumeKafka is one member of the group: it calls handle for one event at a
// time, in the order of the partition, until ctx ends (then it returns nil) or
// handle returns an error. Whoever calls it again after an error gets the same
// event again: skipping it would break the order.
func ConsumeKafka(ctx context.Context, brokers []string, s Subscription, handle Handler) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumerGroup(s.Group),
		kgo.ConsumeTopics(s.Topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMinAge(minMetadata),
		kgo.MetadataMaxAge(lookForTopics),
		// Offsets are committed after the work, and a partition moves to
		// another member only between two batches: nothing is handled by two.
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return fmt.Errorf("join group %s: %w", s.Group, err)
	}
	defer client.CloseAllowingRebalance()
	for ctx.Err() == nil {
		if err := handleBatch(ctx, client, handle); err != nil && ctx.Err() == nil {
			return fmt.Errorf("consume as %s: %w", s.Group, err)
		}
	}
	return nil
}

func handleBatch(ctx context.Context, client *kgo.Client, handle Handler) error {
	defer client.AllowRebalance()
	fetches := client.PollRecords(ctx, batch)
	if err := fetches.Err(); err != nil {
		return err
	}
	records := fetches.Records()
	for _, r := range records {
		e := fromKafka(r)
		if err := handle(ctx, e); err != nil {
			return fmt.Errorf("handle %s %s at %s: %w", e.Type, e.ID, e.Place, err)
		}
	}
	return client.CommitRecords(ctx, records...)
}

func fromKafka(r *kgo.Record) Event {
	e := Event{
		Payload: r.Value,
		Place:   fmt.Sprintf("%s partition %d offset %d", r.Topic, r.Partition, r.Offset),
	}
	for _, h := range r.Headers {
		e.attribute("ce_", h.Key, string(h.Value))
	}
	return e
}
