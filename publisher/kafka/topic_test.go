package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

func TestTooLargeBeforeSending(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	s := openSession(t, kafka.Config{Brokers: brokers})
	s.publish(topic, "k", nil)
	err := s.wait(s.publish(topic, "k", oversize))
	var poison *publisher.PoisonError
	if !errors.As(err, &poison) || poison.Reason != "too_large" || poison.Err != nil {
		t.Fatalf("outcome %v, want poison that was found before sending", err)
	}
	for _, want := range []string{"1300", "1200000", "max.message.bytes", topic} {
		if !strings.Contains(poison.Detail, want) {
			t.Errorf("detail %q lacks %q", poison.Detail, want)
		}
	}
	s.finish()
	if n := len(read(t, brokers, topic)); n != 1 {
		t.Errorf("%d records are stored, want the one before the large one", n)
	}
}

// TestLargestRecord: the check before sending does not refuse what fits. It is
// written in pieces.
func TestLargestRecord(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	var largest atomic.Int64
	s := openSession(t, kafka.Config{Brokers: brokers, Compression: "none", Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return measured{conn, &largest}, err
	}})
	r := s.publish(topic, "k", func(r *publisher.Record) { r.Value = make([]byte, topicLimit-100) })
	if err := s.wait(r); err != nil {
		t.Errorf("a record of the limit less 100 bytes: %v", err)
	}
	if n := largest.Load(); n > 256<<10 {
		t.Errorf("%d bytes were written at once", n)
	}
}

// measured is a connection whose largest write is noted.
type measured struct {
	net.Conn
	largest *atomic.Int64
}

func (c measured) Write(p []byte) (int, error) {
	for n := c.largest.Load(); int64(len(p)) > n && !c.largest.CompareAndSwap(n, int64(len(p))); n = c.largest.Load() {
	}
	return c.Conn.Write(p)
}

// TestLargestRequest: beside the topic's limit there is one for a request, and
// who meets it is told which to raise.
func TestLargestRequest(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	publish := func(maxRequest int) error {
		s := openSession(t, kafka.Config{Brokers: brokers, MaxMessageBytes: 1 << 30, MaxRequestBytes: maxRequest, Compression: "zstd"})
		return s.wait(s.publish(topic, "k", func(r *publisher.Record) { r.Value = make([]byte, 101<<20) }))
	}
	var poison *publisher.PoisonError
	if err := publish(0); !errors.As(err, &poison) || poison.Reason != "too_large" || !strings.Contains(poison.Detail, "a request holds 104856576 (raise socket.request.max.bytes at the brokers, and ?max_request_bytes=)") {
		t.Errorf("a record above a request's limit: %v", err)
	}
	if err := publish(110 << 20); err != nil {
		t.Errorf("a record below it: %v", err)
	}
}

func TestMissingTopic(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	s := openSession(t, kafka.Config{Brokers: brokers})
	held := wantHeld(t, s.wait(s.publish("no.such", "k", nil)), "missing_topic", "no.such")
	if !strings.Contains(held.Fix, "--create-topics") || !strings.Contains(held.Fix, "--create --topic no.such") {
		t.Errorf("fix %q names no command", held.Fix)
	}
	wantHeld(t, s.pub.Publish(t.Context(), &publisher.Record{Topic: "no.such"}), "missing_topic", "no.such")
	if got := s.pub.Stats().Held; got != "no.such" {
		t.Errorf("Stats().Held = %q", got)
	}
}

// TestInspectIsNoVerdictOnTheWorld: a missing topic says nothing of a record,
// and the publisher goes on.
func TestInspectIsNoVerdictOnTheWorld(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	s := openSession(t, kafka.Config{Brokers: brokers})
	if err := s.pub.Inspect(t.Context(), &publisher.Record{Topic: "no.such"}); err != nil {
		t.Errorf("a record for a missing topic: %v", err)
	}
	if err := s.wait(s.publish(topic, "k", nil)); err != nil {
		t.Errorf("a record after it: %v", err)
	}
}

// TestTopicAppearsTooLate creates a missing topic while the record that missed
// it waits in its lane: the next record must not pass it.
func TestTopicAppearsTooLate(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	release := make(chan struct{})
	reported := make(chan error, 3)
	p, err := kafka.Open(t.Context(), kafka.Config{Brokers: brokers, Lanes: 1}, func(_ *publisher.Record, err error) {
		<-release // the lane stands still
		reported <- err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	late := topic + ".late"
	for _, name := range []string{topic, late} {
		if err := p.Publish(t.Context(), &publisher.Record{Topic: name, Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	admin := kadm.NewClient(newClient(t, brokers))
	defer admin.Close()
	if _, err := admin.CreateTopic(t.Context(), 1, 1, nil, late); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, p.Publish(t.Context(), &publisher.Record{Topic: late, Key: []byte("k")}), "missing_topic", late)
	close(release)
	if err := <-reported; err != nil {
		t.Errorf("the record before: %v", err)
	}
	wantHeld(t, <-reported, "missing_topic", late)
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(read(t, brokers, late)); n != 0 {
		t.Errorf("%d records passed", n)
	}
}

func TestIllegalTopic(t *testing.T) {
	cluster := fakeCluster(t)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "a b", Err: kerr.InvalidTopicException, Count: -1})
	s := openSession(t, kafka.Config{Brokers: cluster.ListenAddrs()})
	wantPoison(t, s.wait(s.publish("a b", "k", nil)), "bad_topic", kerr.InvalidTopicException)
}

func TestCreateTopics(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	s := openSession(t, kafka.Config{Brokers: brokers, CreateTopics: true, Partitions: 5, ReplicationFactor: 1})
	for i := range 20 {
		if err := s.wait(s.publish("made.here", fmt.Sprint(i), nil)); err != nil {
			t.Fatal(err)
		}
	}
	admin := kadm.NewClient(newClient(t, brokers))
	defer admin.Close()
	d, err := admin.ListTopics(t.Context(), "made.here")
	if err != nil || len(d["made.here"].Partitions) != 5 {
		t.Errorf("topic %+v, %v, want 5 partitions", d, err)
	}
}

func TestNotAuthorized(t *testing.T) {
	for _, key := range []kmsg.Key{kmsg.Metadata, kmsg.Produce} {
		cluster := fakeCluster(t)
		brokers := cluster.ListenAddrs()
		topic := newTopic(t, brokers, 1)
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Topic: topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
		s := openSession(t, kafka.Config{Brokers: brokers})
		held := wantHeld(t, s.wait(s.publish(topic, "k", nil)), "not_authorized", topic)
		if !strings.Contains(held.Fix, "Write and Describe") {
			t.Errorf("fix %q", held.Fix)
		}
	}
}

// TestConfigNotReadable: without the right to read the topic's configuration
// Kafka's default limit is taken.
func TestConfigNotReadable(t *testing.T) {
	cluster := fakeCluster(t)
	brokers := cluster.ListenAddrs()
	topic := newTopic(t, brokers, 1)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	s := openSession(t, kafka.Config{Brokers: brokers})
	if err := s.wait(s.publish(topic, "k", func(r *publisher.Record) { r.Value = make([]byte, 1_048_400) })); err != nil {
		t.Errorf("below the default: %v", err)
	}
	err := s.wait(s.publish(topic, "k", func(r *publisher.Record) { r.Value = make([]byte, 1_048_600) }))
	if err == nil || !strings.Contains(err.Error(), "allows 1048588") {
		t.Errorf("above the default: %v", err)
	}
}

// TestDeletedTopic: the client waits for ever for a topic that was deleted;
// the lane asks and gives up.
func TestDeletedTopic(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	s := openSession(t, kafka.Config{Brokers: brokers})
	if err := s.wait(s.publish(topic, "k", nil)); err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(newClient(t, brokers))
	defer admin.Close()
	if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, s.wait(s.publish(topic, "k", nil)), "missing_topic", topic)
}

// TestGrowth adds partitions in the middle of a session: keys stay where they
// are, and it is counted.
func TestGrowth(t *testing.T) {
	cluster := fakeCluster(t)
	brokers := cluster.ListenAddrs()
	topic := newTopic(t, brokers, 2)
	s := openSession(t, kafka.Config{Brokers: brokers})
	publish := func() {
		for i := range 30 {
			if err := s.wait(s.publish(topic, fmt.Sprint(i), nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish()
	admin := kadm.NewClient(newClient(t, brokers))
	defer admin.Close()
	if _, err := admin.UpdatePartitions(t.Context(), 6, topic); err != nil {
		t.Fatal(err)
	}
	// A leader that moves makes the client look at the topic again.
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotLeaderForPartition, Count: 2})
	for deadline := time.Now().Add(30 * time.Second); s.pub.Stats().Grown == 0; {
		publish()
		if time.Now().After(deadline) {
			t.Fatal("growth is not noticed")
		}
	}
	publish()
	if got := s.pub.Stats().Grown; got != 1 {
		t.Errorf("Stats().Grown = %d, want 1", got)
	}
	ends, err := admin.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if used := o.Offset > 0; used != (o.Partition < 2) {
			t.Errorf("partition %d holds %d records", o.Partition, o.Offset)
		}
	})
}

func TestNilKeysSpread(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 4)
	s := openSession(t, kafka.Config{Brokers: brokers})
	for range 40 {
		s.publish(topic, "", func(r *publisher.Record) { r.Key = nil })
	}
	s.finish()
	admin := kadm.NewClient(newClient(t, brokers))
	defer admin.Close()
	ends, err := admin.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset != 10 {
			t.Errorf("partition %d holds %d of 40 records, want 10", o.Partition, o.Offset)
		}
	})
}

// TestStats also shows that an idle publisher sends at once and a busy one
// many at a time.
func TestStats(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	s := openSession(t, kafka.Config{Brokers: brokers})
	for range 5 {
		if err := s.wait(s.publish(topic, "k", nil)); err != nil {
			t.Fatal(err)
		}
	}
	idle := s.pub.Stats()
	if idle.Windows != 5 || idle.Records != 5 || idle.Bytes == 0 || idle.Held != "" {
		t.Errorf("after 5 records, one by one: %+v", idle)
	}
	for range 20_000 {
		s.publish(topic, "k", nil)
	}
	s.finish()
	busy := s.pub.Stats()
	if busy.Records != 20_005 || busy.Windows-idle.Windows > 2_000 {
		t.Errorf("after 20000 records more: %+v", busy)
	}
}
