package workload

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/checker"
)

// KafkaConsumer reads topics from their beginning.
type KafkaConsumer struct {
	client    *kgo.Client
	delivered []checker.Delivered
	distinct  map[string]bool
}

// NewKafkaConsumer reads the topics, which may not exist yet.
func NewKafkaConsumer(brokers []string, topics ...string) (*KafkaConsumer, error) {
	return newKafkaConsumer(topics, kgo.SeedBrokers(brokers...))
}

// NewKafkaConsumerAt is NewKafkaConsumer for the only broker of a cluster. It
// connects to the address whatever the broker advertises, such as a proxy's.
func NewKafkaConsumerAt(address string, topics ...string) (*KafkaConsumer, error) {
	return newKafkaConsumer(topics, kgo.SeedBrokers(address), kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}))
}

func newKafkaConsumer(topics []string, options ...kgo.Opt) (*KafkaConsumer, error) {
	client, err := kgo.NewClient(append(options, kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMinAge(100_000_000), kgo.MetadataMaxAge(1_000_000_000))...)
	if err != nil {
		return nil, err
	}
	return &KafkaConsumer{client: client, distinct: map[string]bool{}}, nil
}

// Read reads until done says so of the number of distinct events seen, or ctx
// ends. It may be called again.
func (c *KafkaConsumer) Read(ctx context.Context, done func(distinct int) bool) []checker.Delivered {
	for ctx.Err() == nil && !done(len(c.distinct)) {
		fetches := c.client.PollFetches(ctx)
		fetches.EachRecord(func(r *kgo.Record) {
			d := checker.Delivered{
				ID: header(r.Headers, "ce_id"), Domain: r.Topic + "/" + string(r.Key), Position: header(r.Headers, "ce_sequence"), Replayed: header(r.Headers, "outboxd-replayed") != "",
				Place: fmt.Sprintf("%s partition %d offset %d (producer %d epoch %d, %s)", r.Topic, r.Partition, r.Offset, r.ProducerID, r.ProducerEpoch, r.Timestamp.UTC().Format("15:04:05.000")), Sum: sha256.Sum256(r.Value),
				Log: logName(r.Topic, r.Partition), Offset: r.Offset,
			}
			c.delivered = append(c.delivered, d)
			c.distinct[d.ID] = true
		})
	}
	return c.delivered
}

// Close leaves the cluster.
func (c *KafkaConsumer) Close() { c.client.Close() }

func header(headers []kgo.RecordHeader, name string) string {
	for _, h := range headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}
