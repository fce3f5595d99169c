package devtest_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

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
	p := devtest.NewProxy(t, "")
	p.Lead(l.Addr().String())
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", p.Addr)
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
	for _, w := range [][2]devtest.Wire{{{Frozen: true}, {}}, {{}, {Frozen: true}}} {
		p.Set(w[0], w[1])
		if n, _, err := echo(10, 100*time.Millisecond); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: %d bytes, %v", w, n, err)
		}
		p.Set(devtest.Wire{}, devtest.Wire{})
		_ = conn.SetReadDeadline(time.Now().Add(long))
		if n, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
			t.Errorf("after %v: %d bytes, %v", w, n, err)
		}
	}
	p.Set(devtest.Wire{Delay: 100 * time.Millisecond}, devtest.Wire{Delay: 100 * time.Millisecond})
	if _, took, err := echo(10, long); err != nil || took < 200*time.Millisecond {
		t.Errorf("delayed by twice 100 ms: %s, %v", took, err)
	}
	p.Set(devtest.Wire{}, devtest.Wire{Rate: 100_000})
	if _, took, err := echo(50_000, long); err != nil || took < 400*time.Millisecond {
		t.Errorf("50,000 bytes at 100,000 a second: %s, %v", took, err)
	}
	p.Set(devtest.Wire{}, devtest.Wire{})
	p.CutAfter(12_345)
	if n, _, err := echo(50_000, long); n > 12_345 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil || !p.Cut() {
		t.Errorf("cut after 12,345 bytes: %d bytes, %v", n, err)
	}
	conn = dial()
	if _, _, err := echo(10, long); err != nil {
		t.Fatal(err)
	}
	p.Reset()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
}
