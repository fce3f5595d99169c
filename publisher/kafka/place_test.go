package kafka_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// TestPartition compares with what Apache Kafka's own client computes:
// toPositive(murmur2(key)) % n, by the hashes of its unit test
// (UtilsTest.testMurmur2).
func TestPartition(t *testing.T) {
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		for _, n := range []int32{1, 3, 6, 100} {
			want := (hash & 0x7fffffff) % n
			if got := kafka.Partition(&publisher.Record{Key: []byte(key)}, n); got != want {
				t.Errorf("key %q of %d: partition %d, want %d", key, n, got, want)
			}
		}
	}
	empty := kafka.Partition(&publisher.Record{Key: []byte{}}, 7)
	for range 10 {
		if got := kafka.Partition(&publisher.Record{Key: []byte{}}, 7); got != empty {
			t.Errorf("the empty key is placed at %d and at %d", empty, got)
		}
	}
}

// TestRecordSize compares with the length that the protocol's encoder gives a
// record: never less, and not much more.
func TestRecordSize(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	length := func() int { return rnd.IntN(1 << rnd.IntN(18)) }
	for range 2000 {
		r := &publisher.Record{Key: make([]byte, length()), Value: make([]byte, length())}
		if rnd.IntN(5) == 0 {
			r.Key = nil
		}
		var headers []kmsg.Header
		for range rnd.IntN(90) {
			name, value := strings.Repeat("n", length()&0xff), bytes.Repeat([]byte("v"), length()&0x3ff)
			r.Headers = append(r.Headers, publisher.Header{Name: name, Value: value})
			headers = append(headers, kmsg.Header{Key: name, Value: value})
		}
		record := kmsg.Record{
			Length: 1 << 30, TimestampDelta: 60_000, OffsetDelta: 1 << 20,
			Key: r.Key, Value: r.Value, Headers: headers,
		}
		encoded := len(record.AppendTo(nil))
		if got := kafka.RecordSize(r); got < encoded || got > encoded+8 {
			t.Errorf("RecordSize = %d, encoded %d", got, encoded)
		}
	}
	// One batch by our count is one by the client's.
	if kafka.BatchOverhead < len((&kmsg.RecordBatch{}).AppendTo(nil)) {
		t.Errorf("overhead %d is less than a batch header takes", kafka.BatchOverhead)
	}
}
