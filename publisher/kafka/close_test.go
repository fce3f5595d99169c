package kafka_test

import (
	"context"
	"errors"
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

// beginClose closes the session in the background, and returns when that has
// begun.
func (s *session) beginClose(topic string, timeout time.Duration) (closed <-chan error) {
	c := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		c <- s.pub.Close(ctx)
	}()
	for {
		r := &publisher.Record{Topic: topic, Key: []byte("probe"), Token: 1 << 32}
		if err := s.pub.Publish(s.t.Context(), r); errors.Is(err, publisher.ErrClosed) {
			return c
		}
	}
}

// publishAlone publishes a record and returns when it is on its way.
func (s *session) publishAlone(topic string) *publisher.Record {
	s.t.Helper()
	windows := s.pub.Stats().Windows
	r := s.publish(topic, "k", nil)
	for s.pub.Stats().Windows == windows {
		<-time.After(time.Millisecond)
	}
	return r
}

// wantClosed expects of r that it was given up by Close, and whether the broker
// may have it.
func (s *session) wantClosed(r *publisher.Record, unknown bool) {
	s.t.Helper()
	if err := s.wait(r); !errors.Is(err, publisher.ErrClosed) || errors.Is(err, publisher.ErrUnknown) != unknown {
		s.t.Errorf("record %d: outcome %v, want ErrClosed, unknown: %t", r.Token, err, unknown)
	}
}

// TestCloseDoesNotSplit: a batch that the broker refuses while Close waits is
// not sent again in parts.
func TestCloseDoesNotSplit(t *testing.T) {
	cluster := fakeCluster(t)
	brokers := cluster.ListenAddrs()
	topic := newTopic(t, brokers, 1)
	line := &publishertest.Line{}
	s := openSession(t, kafka.Config{Brokers: brokers, MaxMessageBytes: 2 * topicLimit, WindowBytes: 4 * topicLimit, Dial: line.Dial})
	if err := s.wait(s.publish(topic, "k", nil)); err != nil {
		t.Fatal(err)
	}
	resume := line.Stall()
	s.publishAlone(topic) // stalls: the others gather behind it
	var batch []*publisher.Record
	for i := range 9 {
		var change func(*publisher.Record)
		if i == 5 {
			change = oversize
		}
		batch = append(batch, s.publish(topic, "k", change))
	}
	arrived, answer := make(chan struct{}), make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if len(req.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records) > topicLimit {
			close(arrived)
			<-answer
		}
		return nil, nil, false
	})
	resume()
	<-arrived
	closed := s.beginClose(topic, 30*time.Second)
	close(answer)
	if err := <-closed; !errors.Is(err, publisher.ErrClosed) {
		t.Errorf("close: %v", err)
	}
	for _, r := range batch {
		s.wantClosed(r, false)
	}
	if n := len(read(t, brokers, topic)); n != 2 {
		t.Errorf("%d records are stored, want those before the batch", n)
	}
}

// TestCloseDoesNotRetry: what the broker has not taken while Close waits is not
// sent again, however often the client would.
func TestCloseDoesNotRetry(t *testing.T) {
	cluster := fakeCluster(t, kfake.NumBrokers(1))
	brokers := cluster.ListenAddrs()
	topic := newTopic(t, brokers, 1)
	s := openSession(t, kafka.Config{Brokers: brokers})
	if err := s.wait(s.publish(topic, "k", nil)); err != nil { // all connections stand
		t.Fatal(err)
	}
	var refused atomic.Int64
	fault := cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotEnoughReplicas, Count: -1,
		When: func(kmsg.Request) bool { refused.Add(1); return true },
	})
	r := s.publish(topic, "k", nil)
	for refused.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	closed := s.beginClose(topic, 30*time.Second)
	<-closed
	s.wantClosed(r, false)
	fault.Remove()
	if n := len(read(t, brokers, topic)); n != 1 {
		t.Errorf("%d records are stored, want the first alone", n)
	}
}

// TestCloseDoesNotDial: what a connection has lost while Close waits may have
// arrived, and is not sent again on another one.
func TestCloseDoesNotDial(t *testing.T) {
	brokers := fakeCluster(t).ListenAddrs()
	topic := newTopic(t, brokers, 1)
	line := &publishertest.Line{}
	s := openSession(t, kafka.Config{Brokers: brokers, Dial: line.Dial})
	if err := s.wait(s.publish(topic, "k", nil)); err != nil {
		t.Fatal(err)
	}
	resume := line.Stall()
	r := s.publishAlone(topic)
	closed := s.beginClose(topic, 2*time.Second)
	line.Cut()
	resume()
	<-closed
	s.wantClosed(r, true)
	if n := len(read(t, brokers, topic)); n != 1 {
		t.Errorf("%d records are stored, want the first alone", n)
	}
}
