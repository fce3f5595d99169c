package kafka

import (
	"net"
	"sync"
	"time"
)

// pieceSize is the most that one write deadline covers.
const pieceSize = 256 << 10

// pacedConn writes in pieces, and gives each the time that was set for the
// whole. The client writes a request at once, and bounds that in a way that
// suits small ones: on a slow line a large record would never get out. Below it
// the guard is asked for each piece.
type pacedConn struct {
	net.Conn

	mu    sync.Mutex
	limit time.Duration // of a piece; 0: none, or it is over
}

// SetWriteDeadline implements net.Conn.
func (c *pacedConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = max(time.Until(t), 0)
	return c.Conn.SetWriteDeadline(t)
}

func (c *pacedConn) Write(p []byte) (n int, err error) {
	for {
		piece := p[n:min(len(p), n+pieceSize)]
		m, err := c.Conn.Write(piece)
		n += m
		if err != nil || n == len(p) {
			return n, err
		}
		if err := c.extend(); err != nil {
			return n, err
		}
	}
}

// extend begins the time of another piece, unless somebody has cut it short.
func (c *pacedConn) extend() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit == 0 {
		return nil
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.limit))
}
