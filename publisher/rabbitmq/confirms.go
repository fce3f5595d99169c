package rabbitmq

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
)

// confirmCheck ends a connection over a confirm of what was never sent. The
// library counts from one to the tag of a confirm of several: with a tag of 2^62
// it would be at that for ever, and read nothing else. Read is for one goroutine
// at a time.
type confirmCheck struct {
	net.Conn
	sent atomic.Uint64 // records, on all channels

	head [confirmHead]byte // of the frame that is being read
	have int               // bytes of head that are there
	skip int64             // bytes of the frame that are of no interest
}

const (
	frameHead   = 7              // type, channel, size
	confirmHead = frameHead + 12 // and method, tag

	methodFrame = 1
	basicAck    = 60<<16 | 80
	basicNack   = 60<<16 | 120
)

var errConfirm = errors.New("the broker confirms what was not sent")

func (c *confirmCheck) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		if c.skip > 0 {
			passed := min(c.skip, int64(len(rest)))
			c.skip -= passed
			rest = rest[passed:]
			continue
		}
		want := frameHead
		if c.have >= frameHead {
			want = confirmHead
		}
		copied := copy(c.head[c.have:want], rest)
		c.have += copied
		rest = rest[copied:]
		if c.have == want && !c.look() {
			return 0, errConfirm
		}
	}
	return n, err
}

// look looks at the head of a frame, or of a confirm, and says whether it is all
// right.
func (c *confirmCheck) look() bool {
	size := int64(binary.BigEndian.Uint32(c.head[3:]))
	if c.have == frameHead && c.head[0] == methodFrame && size >= confirmHead-frameHead {
		return true // the rest of the head comes next
	}
	c.skip = frameHead + size + 1 - int64(c.have) // a byte ends each frame
	confirm := c.have == confirmHead
	c.have = 0
	if !confirm {
		return true
	}
	method, tag := binary.BigEndian.Uint32(c.head[frameHead:]), binary.BigEndian.Uint64(c.head[frameHead+4:])
	return method != basicAck && method != basicNack || tag <= c.sent.Load()
}
