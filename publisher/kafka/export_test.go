package kafka

import (
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

// Classify, RecordSize and Partition are what the tests check against tables
// and against the client.
var (
	Classify   = classify
	RecordSize = recordSize
)

const BatchOverhead = batchOverhead

// Partition places a record among n partitions.
func Partition(r *publisher.Record, n int32) int32 {
	t := &topic{partitions: n, keyed: kgo.StickyKeyPartitioner(nil).ForTopic("")}
	return t.partition(r)
}

// PaceConn bounds each piece of a write instead of the whole.
func PaceConn(conn net.Conn) net.Conn { return &pacedConn{Conn: conn} }

// GateConn holds the writes of conn while gate is locked.
func GateConn(conn net.Conn, gate *sync.RWMutex) net.Conn { return &gatedConn{conn, gate} }
