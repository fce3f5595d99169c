package devtest

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Proxy is the network between a relay and a service: it can be cut, frozen,
// slow, or lose one direction, which a process on this machine cannot do to
// real networks. Methods are safe for concurrent use.
type Proxy struct {
	Addr string // where it listens, host:port

	mu       sync.Mutex
	to       string // where it leads
	up, down Wire   // to the service, to the relay
	changed  chan struct{}
	conns    map[*link]struct{}
	budget   int64 // bytes that may still come down before all is cut; -1: no end
}

// Wire is how one direction behaves.
type Wire struct {
	Frozen bool          // nothing arrives, nothing is lost: the sender's TCP goes on trying
	Delay  time.Duration // of each byte
	Rate   int           // bytes a second; 0: as fast as it goes
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

// NewProxy listens until the test ends. to may be empty until Lead is called.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, changed: make(chan struct{}), conns: map[*link]struct{}{}, budget: -1}
	t.Cleanup(func() {
		_ = l.Close()
		p.Set(Wire{}, Wire{})
		p.Reset()
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

// Lead makes new connections lead to another address.
func (p *Proxy) Lead(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

// Set changes how both directions behave, for connections there are too.
func (p *Proxy) Set(up, down Wire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down = up, down
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset ends all connections with RST.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		for _, conn := range []net.Conn{l.relay, l.service} {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}
}

// CutAfter ends all connections with RST when n more bytes have come down,
// wherever in a message that is.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = n
}

// Cut reports whether CutAfter has been carried out.
func (p *Proxy) Cut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.budget < 0
}

func (p *Proxy) serve(relay net.Conn) {
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
	both.Go(func() { p.carry(service, relay, func() Wire { return p.up }, p.ignore) })
	both.Go(func() { p.carry(relay, service, func() Wire { return p.down }, p.spend) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, l)
	p.mu.Unlock()
}

// carry takes bytes from one connection to the other until either ends. The
// end, too, arrives only where bytes do.
func (p *Proxy) carry(to, from net.Conn, w func() Wire, pass func(int) int) {
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
			case queue <- chunk{buf[:n], time.Now().Add(p.wire(w).Delay)}:
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
			p.Reset()
			return
		}
	}
}

func (p *Proxy) wire(w func() Wire) Wire {
	p.mu.Lock()
	defer p.mu.Unlock()
	return w()
}

// wait waits until the chunk may go on: it is due, there is room for it, and
// nothing is frozen.
func (p *Proxy) wait(w func() Wire, c chunk) {
	began := time.Now()
	for {
		p.mu.Lock()
		now, changed := w(), p.changed
		p.mu.Unlock()
		due := c.due
		if now.Rate > 0 {
			due = slices.MaxFunc([]time.Time{due, began.Add(time.Duration(len(c.bytes)) * time.Second / time.Duration(now.Rate))}, time.Time.Compare)
		}
		switch {
		case now.Frozen:
			<-changed
			continue
		case now.Delay == 0 && now.Rate == 0, !due.After(time.Now()):
			return
		}
		select {
		case <-time.After(time.Until(due)):
		case <-changed:
		}
	}
}

func (p *Proxy) ignore(n int) int { return n }

// spend takes n bytes from the budget and returns how many of them may pass.
func (p *Proxy) spend(n int) int {
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
