package kafka

import (
	"math/bits"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// batchOverhead is the header of a record batch (61 bytes) and the length
	// in front of it, which the client counts as well.
	batchOverhead = 61 + 4
	// recordOverhead bounds what stands around the fields of a record:
	// attributes (1), timestamp delta (5), offset delta (5), length (5).
	recordOverhead = 16
)

// recordSize bounds the bytes of r within a batch before compression. It is
// never less than what the client counts, so that a window which keeps the sum
// of a partition below the batch size is sent as one batch.
func recordSize(r *publisher.Record) int {
	n := recordOverhead + varBytes(len(r.Key)) + varBytes(len(r.Value)) + varint(len(r.Headers))
	for i := range r.Headers {
		n += varBytes(len(r.Headers[i].Name)) + varBytes(len(r.Headers[i].Value))
	}
	return n
}

// varBytes is the size of n bytes and their length.
func varBytes(n int) int { return varint(n) + n }

// varint is the size of n as a zigzag varint.
func varint(n int) int { return (bits.Len64(uint64(n)<<1|1) + 6) / 7 }
