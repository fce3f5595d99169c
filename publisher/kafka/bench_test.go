//go:build !embedded

package kafka_test

import (
	"bytes"
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// benchRecords are what a relay would hand over: 300 bytes of JSON that
// compresses, three headers, 10,000 keys.
func benchRecords(topic string) []*publisher.Record {
	records := make([]*publisher.Record, 10_000)
	for i := range records {
		value := []byte(`{"order":` + strconv.Itoa(i) + `,"customer":"someone","lines":[`)
		value = append(value, bytes.Repeat([]byte(`{"sku":"`+strconv.Itoa(i*7)+`","n":1},`), 20)...)
		records[i] = &publisher.Record{
			Topic: topic, Key: []byte("order-" + strconv.Itoa(i)), Value: value[:300],
			Headers: []publisher.Header{
				{Name: "ce_id", Value: []byte("01890000-0000-7000-8000-000000" + strconv.Itoa(100000+i))},
				{Name: "ce_type", Value: []byte("order.placed")},
				{Name: "content-type", Value: []byte("application/json")},
			},
		}
	}
	return records
}

// BenchmarkPublish publishes the same records in windows and with a producer
// that runs free, in turn and against the same broker. "of-free" is the
// throughput of the windows in relation to the other's.
func BenchmarkPublish(b *testing.B) {
	brokers := devtest.Kafka(b)
	topic := newTopic(b, brokers, 6)
	records := benchRecords(topic)
	benchWindows(b, brokers, records, 50_000)
	benchFree(b, brokers, records, 50_000)
	const n = 200_000
	var windows, free time.Duration
	var before, after runtime.MemStats
	total, allocs := 0.0, uint64(0)
	for b.Loop() {
		runtime.ReadMemStats(&before)
		windows += benchWindows(b, brokers, records, n)
		runtime.ReadMemStats(&after)
		free += benchFree(b, brokers, records, n)
		total += n
		allocs += after.Mallocs - before.Mallocs
	}
	b.ReportMetric(total/windows.Seconds(), "windows/s")
	b.ReportMetric(total/free.Seconds(), "free/s")
	b.ReportMetric(free.Seconds()/windows.Seconds(), "of-free")
	b.ReportMetric(float64(windows.Nanoseconds())/total, "ns/record")
	b.ReportMetric(float64(allocs)/total, "allocs/record")
}

func benchWindows(b *testing.B, brokers []string, records []*publisher.Record, n int) time.Duration {
	b.Helper()
	var failed atomic.Int64
	var outcomes sync.WaitGroup
	outcomes.Add(n)
	p, err := kafka.Open(b.Context(), kafka.Config{Brokers: brokers}, func(_ *publisher.Record, err error) {
		if err != nil {
			failed.Add(1)
		}
		outcomes.Done()
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	for i := range n {
		if err := p.Publish(b.Context(), records[i%len(records)]); err != nil {
			b.Fatal(err)
		}
	}
	outcomes.Wait()
	if err := p.Close(context.Background()); err != nil || failed.Load() > 0 {
		b.Fatalf("close: %v, %d records failed", err, failed.Load())
	}
	return time.Since(start)
}

func benchFree(b *testing.B, brokers []string, records []*publisher.Record, n int) time.Duration {
	b.Helper()
	client := newClient(b, brokers, kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	defer client.Close()
	var failed atomic.Int64
	start := time.Now()
	for i := range n {
		r := records[i%len(records)]
		headers := make([]kgo.RecordHeader, len(r.Headers))
		for j, h := range r.Headers {
			headers[j] = kgo.RecordHeader{Key: h.Name, Value: h.Value}
		}
		client.Produce(b.Context(), &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: headers},
			func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Add(1)
				}
			})
	}
	if err := client.Flush(b.Context()); err != nil || failed.Load() > 0 {
		b.Fatalf("flush: %v, %d records failed", err, failed.Load())
	}
	return time.Since(start)
}
