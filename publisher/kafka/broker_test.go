package kafka_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// topicLimit is the max.message.bytes of test topics.
const topicLimit = 1_200_000

// fakeCluster starts a cluster that speaks the protocol and stores in memory.
func fakeCluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(2), kfake.DefaultNumPartitions(3)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newClient(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// newTopic creates a topic with a name of its own.
func newTopic(t testing.TB, brokers []string, partitions int32) string {
	t.Helper()
	suffix := make([]byte, 8)
	rand.Read(suffix)
	name := "test." + hex.EncodeToString(suffix)
	admin := kadm.NewClient(newClient(t, brokers))
	defer admin.Close()
	limit := strconv.Itoa(topicLimit)
	_, err := admin.CreateTopic(t.Context(), partitions, 1, map[string]*string{"max.message.bytes": &limit}, name)
	if err != nil {
		t.Fatalf("create topic: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		d, err := admin.ListTopics(t.Context(), name)
		if err == nil && d.Error() == nil && len(d[name].Partitions) == int(partitions) {
			return name
		}
		if time.Now().After(deadline) {
			t.Fatalf("topic %s does not appear: %v", name, err)
		}
	}
}

// read returns all records of a topic, partition after partition.
func read(t testing.TB, brokers []string, topic string) []publisher.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := newClient(t, brokers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil || ends.Error() != nil {
		t.Fatalf("list end offsets: %v, %v", err, ends.Error())
	}
	// What a dead connection still carries may be stored while we read.
	missing := make(map[int32]int64)
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			missing[o.Partition] = o.Offset
		}
	})
	byPartition := make(map[int32][]publisher.Record)
	for len(missing) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read topic %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= missing[r.Partition] {
				delete(missing, r.Partition)
			}
			byPartition[r.Partition] = append(byPartition[r.Partition], toRecord(r))
		})
	}
	var all []publisher.Record
	for _, rs := range byPartition {
		all = append(all, rs...)
	}
	return all
}

func toRecord(r *kgo.Record) publisher.Record {
	headers := make([]publisher.Header, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = publisher.Header{Name: h.Key, Value: h.Value}
	}
	return publisher.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: headers, Time: r.Timestamp}
}

// oversize makes r too large for the broker, whatever the compression.
func oversize(r *publisher.Record) {
	r.Value = make([]byte, topicLimit+100_000)
	rand.Read(r.Value)
}

// backend lets the publisher believe that topics allow more than they do, so
// that it is the broker that refuses, a whole batch.
func backend(brokers func(testing.TB) []string) publishertest.Backend {
	return func(t testing.TB) *publishertest.Target {
		addrs := brokers(t)
		topic := newTopic(t, addrs, 6)
		line := &publishertest.Line{}
		cfg := kafka.Config{Brokers: addrs, Dial: line.Dial, MaxMessageBytes: 2 * topicLimit}
		return &publishertest.Target{
			Topic: topic,
			Open: func(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
				return kafka.Open(context.Background(), cfg, done, guard)
			},
			Read:   func() []publisher.Record { return read(t, addrs, topic) },
			Refuse: oversize,
			Doom:   func(r *publisher.Record) { r.Value = make([]byte, 2*topicLimit) },
			Stall:  line.Stall,
			Cut:    line.Cut,
		}
	}
}
