package kafka

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// LookupTimeout bounds the questions about one topic.
	LookupTimeout = 15 * time.Second
	// lookupPause is between two looks at a topic that is being created.
	lookupPause = 50 * time.Millisecond

	// brokerMaxMessage is Kafka's default of max.message.bytes, taken where
	// the login may not read a topic's configuration.
	brokerMaxMessage = 1048588
	// requestFraming bounds what a request holds around its only batch.
	requestFraming = 1 << 10
)

// topic is what is pinned of a topic for the life of a publisher. Only Publish
// places records.
type topic struct {
	name       string
	partitions int32
	batchMax   int // bytes of one batch before compression: the smaller one of
	messageMax int // the topic's limit, and that of a request
	offset     int // of its partitions among the lanes
	spread     int32
	keyed      kgo.TopicPartitioner
	probe      kgo.Record // what keyed is asked with
	grown      atomic.Bool
}

// check returns the poison that r is, if any.
func (t *topic) check(r *publisher.Record) error {
	size := batchOverhead + recordSize(r)
	if size <= t.batchMax {
		return nil
	}
	detail := fmt.Sprintf("record takes %d bytes, topic %q allows %d (max.message.bytes)", size, t.name, t.messageMax)
	if size <= t.messageMax {
		detail = fmt.Sprintf("record takes %d bytes, a request holds %d (raise socket.request.max.bytes at the brokers, and ?max_request_bytes=)", size, t.batchMax)
	}
	return &publisher.PoisonError{Reason: "too_large", Detail: detail}
}

// partition places r as a Java client does: murmur2 of the key. Records
// without a key go round.
func (t *topic) partition(r *publisher.Record) int32 {
	if t.partitions == 0 {
		return 0
	}
	if r.Key == nil {
		t.spread = (t.spread + 1) % t.partitions
		return t.spread
	}
	t.probe.Key = r.Key
	return int32(t.keyed.Partition(&t.probe, int(t.partitions)))
}

// topics knows the topics that were looked up. Only Publish looks them up;
// lanes ask what is known, and whether a topic is still there.
type topics struct {
	config Config
	admin  *kadm.Client
	stats  *counters

	mu    sync.Mutex
	known map[string]*topic
}

func (ts *topics) get(name string) *topic {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.known[name]
}

// batchMax answers the client, which also asks for the topic "" once.
func (ts *topics) batchMax(name string) int32 {
	if t := ts.get(name); t != nil {
		return int32(t.batchMax)
	}
	return brokerMaxMessage
}

// lookup asks the cluster for a topic, and creates it where that is allowed.
func (ts *topics) lookup(ctx context.Context, name string) (*topic, error) {
	partitions, err := ts.count(ctx, name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) && ts.config.CreateTopics {
		partitions, err = ts.create(ctx, name)
	}
	if err != nil {
		return nil, ts.explain(err, name)
	}
	messageMax, err := ts.maxMessage(ctx, name)
	if err != nil {
		return nil, ts.explain(err, name)
	}
	offset := fnv.New32a()
	offset.Write([]byte(name))
	t := &topic{
		name:       name,
		partitions: partitions,
		messageMax: messageMax,
		batchMax:   min(messageMax, ts.config.MaxRequestBytes-requestFraming),
		offset:     int(offset.Sum32() % uint32(ts.config.Lanes)),
		keyed:      kgo.StickyKeyPartitioner(nil).ForTopic(name),
	}
	ts.mu.Lock()
	ts.known[name] = t
	ts.mu.Unlock()
	return t, nil
}

// explain adds to an error what an operator can do.
func (ts *topics) explain(err error, name string) error {
	if judge(err).class == retry {
		return fmt.Errorf("look up topic %q: %w", name, err)
	}
	err = classify(err, name, fmt.Sprintf("topic name %q is not legal in Kafka", name))
	var held *publisher.HeldError
	if errors.As(err, &held) && errors.Is(err, kerr.UnknownTopicOrPartition) {
		held.Fix = fmt.Sprintf("run with --create-topics, or: kafka-topics.sh --bootstrap-server %s --create --topic %s",
			ts.config.Brokers[0], name)
	}
	return err
}

// count returns the number of partitions of a topic.
func (ts *topics) count(ctx context.Context, name string) (int32, error) {
	details, err := ts.admin.ListTopicsWithInternal(ctx, name)
	if err != nil {
		return 0, err
	}
	d, ok := details[name]
	switch {
	case !ok:
		return 0, kerr.UnknownTopicOrPartition
	case d.Err != nil:
		return 0, d.Err
	case len(d.Partitions) == 0:
		return 0, kerr.LeaderNotAvailable
	}
	return int32(len(d.Partitions)), nil
}

// create makes a topic and waits until the cluster knows it.
func (ts *topics) create(ctx context.Context, name string) (int32, error) {
	partitions, replicas := ts.config.Partitions, ts.config.ReplicationFactor
	if partitions == 0 {
		partitions = -1 // the broker's default
	}
	if replicas == 0 {
		replicas = -1
	}
	_, err := ts.admin.CreateTopic(ctx, int32(partitions), int16(replicas), nil, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return 0, err
	}
	ts.config.Logger.Info("topic created", "topic", name)
	for {
		n, err := ts.count(ctx, name)
		if err == nil || !kerr.IsRetriable(err) {
			return n, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(lookupPause):
		}
	}
}

// maxMessage returns how large a batch may be.
func (ts *topics) maxMessage(ctx context.Context, name string) (int, error) {
	if ts.config.MaxMessageBytes > 0 {
		return ts.config.MaxMessageBytes, nil
	}
	var c kadm.ResourceConfig
	configs, err := ts.admin.DescribeTopicConfigs(ctx, name)
	if err == nil {
		c, err = configs.On(name, nil)
	}
	if err == nil {
		err = c.Err
	}
	if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return brokerMaxMessage, nil
	}
	if err != nil {
		return 0, err
	}
	for _, kv := range c.Configs {
		if kv.Key == "max.message.bytes" && kv.Value != nil {
			n, err := strconv.Atoi(*kv.Value)
			if err != nil {
				return 0, fmt.Errorf("max.message.bytes is %q: %w", *kv.Value, err)
			}
			return n, nil
		}
	}
	return brokerMaxMessage, nil
}

// seen is told how many partitions a client sees of t. More than were pinned
// are left unused: a key that moved to another partition could pass its
// earlier records there.
func (ts *topics) seen(t *topic, n int) {
	if n > int(t.partitions) && !t.grown.Swap(true) {
		ts.stats.grown.Add(1)
		ts.config.Logger.Warn("topic has more partitions than when it was first used; keys stay where they are until the next session",
			"topic", t.name, "used", t.partitions, "now", n)
	}
}
