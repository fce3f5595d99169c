package kafka

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

// errNoAnswer is the answer until there is one: a record is acked by the
// client's word and not for want of an error.
var errNoAnswer = errors.New("the client has not answered")

// slot is the place of one record in a window. Slots are used again, so that a
// record costs no allocation of its own.
type slot struct {
	source    *publisher.Record
	topic     *topic
	partition int32
	size      int   // of the record in a batch
	preset    error // it is not sent: it fails with this when its turn comes

	record  kgo.Record
	headers []kgo.RecordHeader
	err     error // the client's answer
	sent    bool
	promise func(*kgo.Record, error)
}

// window is what a lane sends at once, in the order of Publish.
type window struct {
	slots []*slot // those in use are slots[:n]
	n     int
	bytes int
	batch map[place]int // bytes by partition
}

// place is one partition of one topic.
type place struct {
	topic     *topic
	partition int32
}

// used returns the slots that hold a record.
func (w *window) used() []*slot { return w.slots[:w.n] }

// fits says whether w has room for a record of size bytes at pl. An empty
// window takes anything.
func (w *window) fits(c *Config, pl place, size int) bool {
	if w.n == 0 {
		return true
	}
	if w.n >= c.WindowRecords || w.bytes+size > c.WindowBytes {
		return false
	}
	batch := w.batch[pl]
	return batch == 0 || batchOverhead+batch+size <= pl.topic.batchMax
}

func (w *window) add(r *publisher.Record, pl place, size int, preset error) {
	if w.n == len(w.slots) {
		s := &slot{}
		s.promise = func(_ *kgo.Record, err error) { s.err = err }
		w.slots = append(w.slots, s)
	}
	s := w.slots[w.n]
	s.source, s.topic, s.partition, s.size, s.preset = r, pl.topic, pl.partition, size, preset
	s.err, s.sent = nil, false
	w.n++
	w.bytes += size
	w.batch[pl] += size
}

// reset empties w and lets go of what its slots point to.
func (w *window) reset() {
	for _, s := range w.used() {
		clear(s.headers)
		s.source, s.topic, s.record = nil, nil, kgo.Record{}
	}
	w.n, w.bytes = 0, 0
	clear(w.batch)
}

// fill makes the client's record.
func (s *slot) fill() *kgo.Record {
	s.headers = s.headers[:0]
	for _, h := range s.source.Headers {
		s.headers = append(s.headers, kgo.RecordHeader{Key: h.Name, Value: h.Value})
	}
	s.record = kgo.Record{
		Topic:     s.topic.name,
		Partition: s.partition,
		Key:       s.source.Key,
		Value:     s.source.Value,
		Headers:   s.headers,
	}
	s.sent, s.err = true, errNoAnswer
	return &s.record
}

func (s *slot) place() place { return place{s.topic, s.partition} }
