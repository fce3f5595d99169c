package publishertest

import (
	"context"
	"net"
	"sync"
)

// Line is a network for a backend's Dial option whose connections can be
// stalled and cut. The zero value is ready to use, by any number of
// goroutines.
type Line struct {
	mu      sync.Mutex
	stalled chan struct{} // closed on resume; nil while bytes flow
	open    map[*lineConn]struct{}
}

// Dial connects like net.Dialer.DialContext.
func (l *Line) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &lineConn{Conn: conn, line: l, closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[*lineConn]struct{})
	}
	l.open[c] = struct{}{}
	return c, nil
}

// Stall holds every Write of every connection, also of those still to be
// dialed, until resume is called (once or more) or the connection is closed.
// What was held on a connection that was closed is never sent.
func (l *Line) Stall() (resume func()) {
	stalled := make(chan struct{})
	l.mu.Lock()
	l.stalled = stalled
	l.mu.Unlock()
	return sync.OnceFunc(func() {
		l.mu.Lock()
		l.stalled = nil
		l.mu.Unlock()
		close(stalled)
	})
}

// Cut closes every connection that is open.
func (l *Line) Cut() {
	l.mu.Lock()
	conns := make([]*lineConn, 0, len(l.open))
	for c := range l.open {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

type lineConn struct {
	net.Conn
	line   *Line
	once   sync.Once
	closed chan struct{}
}

func (c *lineConn) Write(p []byte) (int, error) {
	c.line.mu.Lock()
	stalled := c.line.stalled
	c.line.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return c.Conn.Write(p)
}

func (c *lineConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.line.mu.Lock()
		delete(c.line.open, c)
		c.line.mu.Unlock()
	})
	return c.Conn.Close()
}
