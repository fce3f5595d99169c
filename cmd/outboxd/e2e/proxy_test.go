package e2e_test

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// proxy is the network between a relay and a service: it can be cut, frozen,
// slow, or lose one direction, which a process on this machine cannot do to
// real networks. Methods are safe for concurrent use.
type proxy struct {
	addr string // where it listens, host:port

	mu       sync.Mutex
	to       string // where it leads
	up, down wire   // to the service, to the relay
	changed  chan struct{}
	conns    map[*link]struct{}
	budget   int64 // bytes that may still come down before all is cut; -1: no end
}

// wire is how one direction behaves.
type wire struct {
	frozen bool          // nothing arrives, nothing is lost: the sender's TCP goes on trying
	delay  time.Duration // of each byte
	rate   int           // bytes a second; 0: as fast as it goes
}

// link is one connection through the proxy.
type link struct{ relay, service net.Conn }

// chunk is what one read gave; nil bytes are the end.
type chunk struct {
	bytes []byte
	due   time.Time
}

// A slow direction holds little itself, so that the sender feels how slow it
// is.
const chunkSize, chunksAhead, readBuffer = 4 << 10, 16, 64 << 10

// newProxy listens until the test ends. to may be empty until lead is called.
func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), to: to, changed: make(chan struct{}), conns: map[*link]struct{}{}, budget: -1}
	t.Cleanup(func() {
		_ = l.Close()
		p.set(wire{}, wire{})
		p.reset()
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

// lead makes new connections lead to another address.
func (p *proxy) lead(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

// set changes how both directions behave, for connections there are too.
func (p *proxy) set(up, down wire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down = up, down
	close(p.changed)
	p.changed = make(chan struct{})
}

// reset ends all connections with RST.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		for _, conn := range []net.Conn{l.relay, l.service} {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}
}

// cutAfter ends all connections with RST when n more bytes have come down,
// wherever in a message that is.
func (p *proxy) cutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = n
}

// cut reports whether cutAfter has been carried out.
func (p *proxy) cut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.budget < 0
}

func (p *proxy) serve(relay net.Conn) {
	defer relay.Close()
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	service, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer service.Close()
	for _, conn := range []net.Conn{relay, service} {
		_ = conn.(*net.TCPConn).SetReadBuffer(readBuffer)
	}
	l := &link{relay, service}
	p.mu.Lock()
	p.conns[l] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.carry(service, relay, func() wire { return p.up }, p.ignore) })
	both.Go(func() { p.carry(relay, service, func() wire { return p.down }, p.spend) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, l)
	p.mu.Unlock()
}

// carry takes bytes from one connection to the other until either ends. The
// end, too, arrives only where bytes do.
func (p *proxy) carry(to, from net.Conn, w func() wire, pass func(int) int) {
	queue, gone := make(chan chunk, chunksAhead), make(chan struct{})
	go func() {
		defer close(queue)
		for {
			buf := make([]byte, chunkSize)
			n, err := from.Read(buf)
			if err != nil {
				buf, n = nil, 0
			}
			select {
			case queue <- chunk{buf[:n], time.Now().Add(p.wire(w).delay)}:
			case <-gone:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer close(gone)
	defer to.Close()
	for c := range queue {
		p.wait(w, c)
		if c.bytes == nil {
			return
		}
		n := pass(len(c.bytes))
		if _, err := to.Write(c.bytes[:n]); err != nil {
			return
		}
		if n < len(c.bytes) {
			p.reset()
			return
		}
	}
}

func (p *proxy) wire(w func() wire) wire {
	p.mu.Lock()
	defer p.mu.Unlock()
	return w()
}

// wait waits until the chunk may go on: it is due, there is room for it, and
// nothing is frozen.
func (p *proxy) wait(w func() wire, c chunk) {
	began := time.Now()
	for {
		p.mu.Lock()
		now, changed := w(), p.changed
		p.mu.Unlock()
		due := c.due
		if now.rate > 0 {
			due = slices.MaxFunc([]time.Time{due, began.Add(time.Duration(len(c.bytes)) * time.Second / time.Duration(now.rate))}, time.Time.Compare)
		}
		switch {
		case now.frozen:
			<-changed
			continue
		case now.delay == 0 && now.rate == 0, !due.After(time.Now()):
			return
		}
		select {
		case <-time.After(time.Until(due)):
		case <-changed:
		}
	}
}

func (p *proxy) ignore(n int) int { return n }

// spend takes n bytes from the budget and returns how many of them may pass.
func (p *proxy) spend(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.budget < 0 {
		return n
	}
	if int64(n) <= p.budget {
		p.budget -= int64(n)
		return n
	}
	n, p.budget = int(p.budget), -1
	return n
}

// TestProxy breaks a connection to an echo in each of the ways.
func TestProxy(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	p := newProxy(t, "")
	p.lead(l.Addr().String())
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := dial()
	// echo sends n bytes and returns how many come back in which time.
	echo := func(n int, limit time.Duration) (int, time.Duration, error) {
		began := time.Now()
		if _, err := conn.Write(make([]byte, n)); err != nil {
			return 0, 0, err
		}
		_ = conn.SetReadDeadline(began.Add(limit))
		got, err := io.ReadFull(conn, make([]byte, n))
		return got, time.Since(began), err
	}
	const long = 30 * time.Second
	if n, _, err := echo(100_000, long); err != nil {
		t.Errorf("a sound link: %d bytes, %v", n, err)
	}
	for _, w := range [][2]wire{{{frozen: true}, {}}, {{}, {frozen: true}}} {
		p.set(w[0], w[1])
		if n, _, err := echo(10, 100*time.Millisecond); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: %d bytes, %v", w, n, err)
		}
		p.set(wire{}, wire{})
		_ = conn.SetReadDeadline(time.Now().Add(long))
		if n, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
			t.Errorf("after %v: %d bytes, %v", w, n, err)
		}
	}
	p.set(wire{delay: 100 * time.Millisecond}, wire{delay: 100 * time.Millisecond})
	if _, took, err := echo(10, long); err != nil || took < 200*time.Millisecond {
		t.Errorf("delayed by twice 100 ms: %s, %v", took, err)
	}
	p.set(wire{}, wire{rate: 100_000})
	if _, took, err := echo(50_000, long); err != nil || took < 400*time.Millisecond {
		t.Errorf("50,000 bytes at 100,000 a second: %s, %v", took, err)
	}
	p.set(wire{}, wire{})
	p.cutAfter(12_345)
	if n, _, err := echo(50_000, long); n > 12_345 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil || !p.cut() {
		t.Errorf("cut after 12,345 bytes: %d bytes, %v", n, err)
	}
	conn = dial()
	if _, _, err := echo(10, long); err != nil {
		t.Fatal(err)
	}
	p.reset()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
}
