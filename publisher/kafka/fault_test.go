package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// TestFaults answers produce requests with every kind of error, somewhere in
// the stream. Whether the publisher mends it or breaks, its outcomes are true
// and no later record of a domain passes one that failed.
func TestFaults(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, code := range []*kerr.Error{
		kerr.NotLeaderForPartition,
		kerr.RequestTimedOut, // the records are stored, the answer is an error
		kerr.NotEnoughReplicasAfterAppend,
		kerr.MessageTooLarge,
		kerr.InvalidRecord,
		kerr.InvalidTimestamp,
		kerr.TopicAuthorizationFailed,
		kerr.ClusterAuthorizationFailed,
		kerr.UnknownTopicOrPartition,
		kerr.PolicyViolation,
		kerr.CorruptMessage,
		kerr.KafkaStorageError,
		kerr.OutOfOrderSequenceNumber,
		kerr.UnknownProducerID,
		kerr.UnknownServerError,
	} {
		for round := range 3 {
			skip := int64(rnd.IntN(4))
			t.Run(fmt.Sprintf("%s %d", code.Message, round), func(t *testing.T) {
				for _, c := range publishertest.Checks() {
					if c.Name == "cut connection" {
						c.Run(t, faultBackend(code, skip))
					}
				}
			})
		}
	}
}

// faultBackend injects a fault where the suite cuts connections.
func faultBackend(code *kerr.Error, skip int64) publishertest.Backend {
	return func(t testing.TB) *publishertest.Target {
		cluster := fakeCluster(t)
		brokers := cluster.ListenAddrs()
		topic := newTopic(t, brokers, 3)
		var handle *kfake.FaultHandle
		return &publishertest.Target{
			Topic: topic,
			Open: func(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
				if handle != nil {
					handle.Remove()
				}
				return kafka.Open(context.Background(), kafka.Config{Brokers: brokers}, done, guard)
			},
			Read: func() []publisher.Record { return read(t, brokers, topic) },
			Cut: func() {
				var seen atomic.Int64
				handle = cluster.Fault(kfake.Fault{
					Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: code,
					When: func(kmsg.Request) bool { return seen.Add(1) > skip },
				})
			},
		}
	}
}

// TestFirstRecordGoesAlone: a client that does not know the partitions yet sends
// a batch with the first record and another right behind it. The rest follows,
// once, also where records of a known topic stand in front.
func TestFirstRecordGoesAlone(t *testing.T) {
	cluster := fakeCluster(t)
	brokers := cluster.ListenAddrs()
	warm, cold := newTopic(t, brokers, 1), newTopic(t, brokers, 1)
	var mu sync.Mutex
	var batches []int32
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, partition := range topic.Partitions {
				var batch kmsg.RecordBatch
				if err := batch.ReadFrom(partition.Records); err != nil {
					t.Error(err)
				}
				batches = append(batches, batch.NumRecords)
			}
		}
		return nil, nil, false
	})
	release := make(chan struct{})
	var outcomes sync.WaitGroup
	outcomes.Add(50)
	p, err := kafka.Open(t.Context(), kafka.Config{Brokers: brokers, Lanes: 1}, func(*publisher.Record, error) {
		<-release
		outcomes.Done()
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // the lane stands still behind the first
		topic := warm
		if i > 1 && i%2 == 0 {
			topic = cold
		}
		if err := p.Publish(t.Context(), &publisher.Record{Topic: topic, Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	outcomes.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	sum := int32(0)
	for _, n := range batches {
		sum += n
	}
	if len(batches) < 4 || !slices.Equal(batches[:2], []int32{1, 1}) || sum != 50 {
		t.Errorf("batches of %v records, want 1, 1 and together 50", batches)
	}
}

// TestOneBatchAPartition: a window ends where a partition's batch would.
func TestOneBatchAPartition(t *testing.T) {
	cluster := fakeCluster(t)
	brokers := cluster.ListenAddrs()
	topic := newTopic(t, brokers, 1)
	release := make(chan struct{})
	var outcomes atomic.Int64
	p, err := kafka.Open(t.Context(), kafka.Config{Brokers: brokers, Lanes: 1, WindowBytes: 10 * topicLimit},
		func(*publisher.Record, error) {
			outcomes.Add(1)
			<-release
		}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	taken := 0
	for {
		r := &publisher.Record{Topic: topic, Key: []byte("k"), Value: make([]byte, topicLimit/4)}
		if err := p.Publish(ctx, r); err != nil {
			break
		}
		if taken++; taken == 1 {
			for outcomes.Load() == 0 { // its window is gone, and the lane stands still
				runtime.Gosched()
			}
		}
	}
	if taken != 1+3 {
		t.Errorf("%d records were taken, want one on its way and three that fit a batch", taken)
	}
	close(release)
	for int(outcomes.Load()) < taken {
		runtime.Gosched()
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSplit has the broker refuse a batch for a record in every position: what
// stands before it is stored once, it is poison with the broker's error, and
// nothing behind it is stored.
func TestSplit(t *testing.T) {
	cluster := fakeCluster(t)
	brokers := cluster.ListenAddrs()
	for _, n := range []int{1, 2, 3, 7, 8, 9} {
		for k := range n {
			topic := newTopic(t, brokers, 1)
			// The first answers are held back, so that all records stand in one window.
			line := &publishertest.Line{}
			s := openSession(t, kafka.Config{Brokers: brokers, MaxMessageBytes: 2 * topicLimit,
				WindowBytes: 4 * topicLimit, Dial: line.Dial})
			first := s.publish(topic, "k", nil)
			if err := s.wait(first); err != nil {
				t.Fatal(err)
			}
			resume := line.Stall()
			s.publish(topic, "k", nil) // stalls: the others gather behind it
			var culprit *publisher.Record
			for i := range n {
				var change func(*publisher.Record)
				if i == k {
					change = oversize
				}
				if r := s.publish(topic, "k", change); i == k {
					culprit = r
				}
			}
			resume()
			err := s.wait(culprit)
			s.close()
			wantPoison(t, err, "too_large", kerr.MessageTooLarge)
			if got, want := len(read(t, brokers, topic)), 2+k; got != want {
				t.Errorf("n=%d k=%d: %d records are stored, want %d", n, k, got, want)
			}
			if s.acked() != 2+k {
				t.Errorf("n=%d k=%d: %d records are acked, want %d", n, k, s.acked(), 2+k)
			}
		}
	}
}

// TestBatchTooLargeWithoutCulprit: a limit that was lowered refuses a batch of
// which every record is fine alone. All are stored and nothing breaks.
func TestBatchTooLargeWithoutCulprit(t *testing.T) {
	cluster := fakeCluster(t)
	brokers := cluster.ListenAddrs()
	topic := newTopic(t, brokers, 1)
	line := &publishertest.Line{}
	s := openSession(t, kafka.Config{Brokers: brokers, MaxMessageBytes: 10 * topicLimit, WindowBytes: 10 * topicLimit,
		Compression: "none", Dial: line.Dial})
	if err := s.wait(s.publish(topic, "k", nil)); err != nil {
		t.Fatal(err)
	}
	resume := line.Stall()
	for range 10 {
		s.publish(topic, "k", func(r *publisher.Record) { r.Value = []byte(strings.Repeat("x", topicLimit/3)) })
	}
	resume()
	s.finish()
	if got := len(read(t, brokers, topic)); got != 11 || s.acked() != 11 {
		t.Errorf("%d records are stored and %d acked, want 11", got, s.acked())
	}
}
