package kafka

import (
	"net"
	"sync"
)

// gatedConn keeps requests from leaving while a lane hands records to the
// client. The client has no such mode: a sender that is still winding down from
// the flush before may take what was handed over so far. Without the gate:
//
//	lane    hands over a (the culprit), b, c
//	sender  of the last flush, not gone yet, sends a batch of a alone
//	broker  refuses it
//	client  fails all it holds of the partition: a, b, c
//	lane    hands over d, e and flushes: they are stored, behind a hole
//
// With it the batch of a leaves when e has been handed over too, and the
// refusal fails all five. A second batch that is on its way by then is refused
// by the broker, which misses the sequence numbers of the first.
type gatedConn struct {
	net.Conn
	gate *sync.RWMutex
}

func (c *gatedConn) Write(p []byte) (int, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	return c.Conn.Write(p)
}
