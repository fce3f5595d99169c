//go:build !embedded

package rabbitmq_test

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// BenchmarkPublish compares, in one run on one broker: the client library
// alone with a window of 2,000 unconfirmed messages, and this publisher, with
// 1,000 keys, 300 bytes each.
func BenchmarkPublish(b *testing.B) {
	for _, queueType := range []string{"quorum", "classic"} {
		b.Run(queueType+"/library", func(b *testing.B) { benchLibrary(b, newCorner(b, devtest.RabbitMQ(b), queueType)) })
		for _, channels := range []int{1, 2, 4} {
			for _, ordering := range []rabbitmq.Ordering{rabbitmq.Strict, rabbitmq.Pipelined} {
				b.Run(fmt.Sprintf("%s/%s/channels=%d", queueType, ordering, channels), func(b *testing.B) {
					c := newCorner(b, devtest.RabbitMQ(b), queueType)
					config := c.config()
					config.Ordering = ordering
					config.Channels = channels
					benchPublisher(b, config)
				})
			}
		}
	}
}

func benchPublisher(b *testing.B, config rabbitmq.Config) {
	got := newOutcomes(b)
	p, err := rabbitmq.Open(b.Context(), config, got.done, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range uint64(b.N) {
		if err := p.Publish(b.Context(), benchRecord(i)); err != nil {
			b.Fatal(err)
		}
	}
	got.wait(b.N)
	if err := shut(b, p, time.Minute); err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func benchRecord(i uint64) *publisher.Record {
	return &publisher.Record{
		Topic: routedKey, Key: fmt.Appendf(nil, "key-%d", i%1000), Value: make([]byte, 300), ID: fmt.Sprintf("0198c0de-%012d", i), Type: "placed",
		ContentType: "application/json", Token: i, Headers: []publisher.Header{
			{Name: "cloudEvents_specversion", Value: []byte("1.0")}, {Name: "cloudEvents_id", Value: []byte("0198c0de")}, {Name: "cloudEvents_source", Value: []byte("/outboxd/bench")},
		},
	}
}

// benchLibrary publishes the same messages on one channel.
func benchLibrary(b *testing.B, c *corner) {
	c.must(c.ch.Confirm(false))
	confirms := make(chan *amqp.DeferredConfirmation, 2000)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for d := range confirms {
			if !d.Wait() {
				b.Error("nacked")
			}
		}
	}()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range uint64(b.N) {
		r := benchRecord(i)
		headers := make(amqp.Table)
		for _, h := range r.Headers {
			headers[h.Name] = string(h.Value)
		}
		d, err := c.ch.PublishWithDeferredConfirm(c.exchange, r.Topic, true, false, amqp.Publishing{
			MessageId: r.ID, Type: r.Type, ContentType: r.ContentType, AppId: "outboxd", DeliveryMode: amqp.Persistent, Headers: headers, Body: r.Value,
		})
		if err != nil {
			b.Fatal(err)
		}
		confirms <- d
	}
	close(confirms)
	<-finished
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
