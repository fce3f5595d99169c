package publishertest

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
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
	c := &lineConn{Conn: conn, line: l, closed: make(chan struct{}), deadlines: make(chan time.Time, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[*lineConn]struct{})
	}
	l.open[c] = struct{}{}
	return c, nil
}

// Stall holds every Write of every connection, also of those still to be
// dialed, until resume is called (once or more), the connection is closed or
// its write deadline passes. What a Write held that failed is never sent.
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
	line      *Line
	once      sync.Once
	closed    chan struct{}
	deadlines chan time.Time // the newest write deadline that no Write has seen
}

func (c *lineConn) Write(p []byte) (int, error) {
	c.line.mu.Lock()
	stalled := c.line.stalled
	c.line.mu.Unlock()
	if stalled != nil {
		if err := c.hold(stalled); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

func (c *lineConn) hold(stalled <-chan struct{}) error {
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-stalled:
			return nil
		case <-c.closed:
			return net.ErrClosed
		case <-timer.C:
			return os.ErrDeadlineExceeded
		case t := <-c.deadlines:
			timer.Stop()
			if !t.IsZero() {
				timer.Reset(time.Until(t))
			}
		}
	}
}

// SetWriteDeadline passes t on, and to the Write that is held or will be.
func (c *lineConn) SetWriteDeadline(t time.Time) error {
	for {
		select {
		case c.deadlines <- t:
			return c.Conn.SetWriteDeadline(t)
		case <-c.deadlines: // an older one
		}
	}
}

func (c *lineConn) SetDeadline(t time.Time) error {
	if err := c.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.Conn.SetReadDeadline(t)
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
