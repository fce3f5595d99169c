package rabbitmq

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

// pipe returns a coalescer and what arrives at its other end. net.Pipe has no
// buffer: a write returns when it was read.
func pipe(t testing.TB) (*coalescer, net.Conn) {
	ours, theirs := net.Pipe()
	c := newCoalescer(ours, 10*time.Second)
	t.Cleanup(func() { _ = theirs.Close(); _ = c.Close() })
	return c, theirs
}

func mustWrite(t testing.TB, c *coalescer, p []byte) {
	t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		t.Fatalf("write %d bytes: %d, %v", len(p), n, err)
	}
}

func mustRead(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

func TestCoalescerSendsAtOnceWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe(t)
		start := time.Now()
		mustWrite(t, c, []byte("heartbeat"))
		mustRead(t, far, "heartbeat")
		if time.Since(start) != 0 {
			t.Error("a write waited for a timer")
		}
	})
}

func TestCoalescerHoldsUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe(t)
		var got atomic.Int64
		go func() {
			buf := make([]byte, 1<<20)
			for {
				n, err := far.Read(buf)
				got.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
		c.hold()
		c.hold() // two lanes
		mustWrite(t, c, make([]byte, 100))
		c.release()
		synctest.Wait()
		if n := got.Load(); n != 0 {
			t.Errorf("%d bytes were sent while a lane had more to come", n)
		}
		c.release()
		synctest.Wait()
		if n := got.Load(); n != 100 {
			t.Errorf("%d bytes were sent after the release, want 100", n)
		}
		c.hold()
		mustWrite(t, c, make([]byte, coalesceBurst))
		synctest.Wait()
		if n := got.Load(); n != 100+coalesceBurst {
			t.Errorf("%d bytes were sent after a full burst, want %d", n, 100+coalesceBurst)
		}
	})
}

func TestCoalescerKeepsOrder(t *testing.T) {
	c, far := pipe(t)
	const writes = 20000
	var wg sync.WaitGroup
	wg.Go(func() {
		var p []byte
		for i := range writes {
			if i%500 == 0 {
				c.hold()
			}
			p = append(p[:0], byte(i), byte(i>>8))
			p = append(p, make([]byte, i%97)...)
			mustWrite(t, c, p)
			if i%500 == 400 {
				c.release()
			}
			c.waitRoom(func() bool { return false })
		}
	})
	for i := range writes {
		p := make([]byte, 2+i%97)
		if _, err := io.ReadFull(far, p); err != nil {
			t.Fatal(err)
		}
		if p[0] != byte(i) || p[1] != byte(i>>8) {
			t.Fatalf("piece %d is %d", i, int(p[0])|int(p[1])<<8)
		}
	}
	wg.Wait()
}

func TestCoalescerBoundsItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe(t) // nobody reads
		record := make([]byte, 10_000)
		var written atomic.Int64
		var stop atomic.Bool
		go func() {
			for !stop.Load() {
				c.waitRoom(stop.Load)
				if _, err := c.Write(record); err != nil {
					return
				}
				written.Add(1)
			}
		}()
		synctest.Wait()
		if n := written.Load() * 10_000; n < coalesceRoom || n > 2*coalesceRoom+2*10_000 {
			t.Errorf("%d bytes were taken while nothing is read, want %d to %d", n, coalesceRoom, 2*coalesceRoom)
		}
		before := written.Load()
		mustWrite(t, c, []byte("heartbeat")) // never blocks

		buf := make([]byte, 4*coalesceRoom)
		if _, err := io.ReadFull(far, buf); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if written.Load() == before {
			t.Error("the writer still waits though there is room")
		}
		stop.Store(true)
		c.nudge()
		synctest.Wait()
	})
}

func TestCoalescerReturnsTheFirstErrorLater(t *testing.T) {
	c, far := pipe(t)
	_ = far.Close()
	mustWrite(t, c, []byte("lost"))
	<-c.sent
	for range 2 {
		if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write after a failure: %v, want the failure", err)
		}
	}
	c.fail(errors.New("second"))
	if err := c.cause(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the first error was replaced: %v", err)
	}
}

func TestCoalescerWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t) // nobody reads
		start := time.Now()
		mustWrite(t, c, []byte("x"))
		<-c.sent
		if err, took := c.cause(), time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 10*time.Second+closeGrace {
			t.Errorf("a write that nobody reads ended after %v with %v", took, err)
		}
	})
}

func TestCoalescerHasNoDeadlineWhileBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe(t)
		mustWrite(t, c, []byte("under way"))
		synctest.Wait()
		c.pause(true)
		mustWrite(t, c, []byte(", heartbeat"))

		passed := make(chan struct{})
		go func() { c.waitRoom(func() bool { return false }); close(passed) }()
		time.Sleep(time.Hour) // of the bubble: none passes
		select {
		case <-passed:
			t.Error("a record was let in while the broker had blocked the connection")
		default:
		}
		if err := c.cause(); err != nil {
			t.Fatalf("an hour of alarm broke the connection: %v", err)
		}
		mustRead(t, far, "under way, heartbeat")
		c.pause(false)
		<-passed
		mustWrite(t, c, []byte("x"))
		<-c.sent
		if err := c.cause(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the alarm a write has no deadline: %v", err)
		}
	})
}

func TestCoalescerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe(t)
		c.hold()
		mustWrite(t, c, []byte("close-ok"))
		got := make(chan string)
		go func() {
			all, _ := io.ReadAll(far)
			got <- string(all)
		}()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if s := <-got; s != "close-ok" {
			t.Errorf("close has sent %q, want what was buffered", s)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
	})
}

func TestCoalescerCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t) // nobody reads
		c.pause(true)   // no write deadline either
		mustWrite(t, c, []byte("stuck"))
		synctest.Wait()
		start := time.Now()
		_ = c.Close()
		if took := time.Since(start); took != closeGrace {
			t.Errorf("close took %v, want %v", took, closeGrace)
		}
	})
}

func TestCoalescerAsksTheGuard(t *testing.T) {
	ours, far := net.Pipe()
	var asked atomic.Int64
	errLease := errors.New("lease ran out")
	c := newCoalescer(publisher.GuardConn(ours, func() error {
		if asked.Add(1) > 1 {
			return errLease
		}
		return nil
	}), time.Minute)
	defer c.Close()
	mustWrite(t, c, []byte("first"))
	mustRead(t, far, "first")
	mustWrite(t, c, []byte("second"))
	if rest, _ := io.ReadAll(far); len(rest) > 0 {
		t.Errorf("%q was sent though the guard refused", rest)
	}
	<-c.sent
	if err := c.cause(); !errors.Is(err, errLease) {
		t.Errorf("cause is %v, want the guard's", err)
	}
}

func TestCoalescerRemembersWhyReadingEnded(t *testing.T) {
	c, far := pipe(t)
	go func() { _, _ = far.Write([]byte("x")); _ = far.Close() }()
	if all, err := io.ReadAll(c); !bytes.Equal(all, []byte("x")) || err != nil {
		t.Fatal(all, err)
	}
	_ = c.Close()
	_, _ = c.Read(make([]byte, 1)) // of what is closed now
	if err := c.readCause(); !errors.Is(err, io.EOF) {
		t.Errorf("the first read error is %v, want EOF", err)
	}
}

// refusingConn fails the write, and has something to read only after it.
type refusingConn struct {
	net.Conn       // nil
	failed, closed chan struct{}
}

var errHungUp, errAlert = errors.New("hung up"), errors.New("certificate refused")

func (c refusingConn) Write([]byte) (int, error) {
	close(c.failed)
	return 0, errHungUp
}

func (c refusingConn) SetWriteDeadline(time.Time) error { return nil }

func (c refusingConn) Read([]byte) (int, error) {
	<-c.failed
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	case <-time.After(closeGrace / 2):
		return 0, errAlert
	}
}

func (c refusingConn) Close() error {
	close(c.closed)
	return nil
}

// TestCoalescerHearsOut: what the other side said before it hung up can still be
// read when a write has failed.
func TestCoalescerHearsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := refusingConn{failed: make(chan struct{}), closed: make(chan struct{})}
		c := newCoalescer(conn, time.Minute)
		start := time.Now()
		mustWrite(t, c, []byte("hello"))
		go func() { _, _ = c.Read(make([]byte, 1)) }()
		<-c.sent
		if err, took := c.readCause(), time.Since(start); !errors.Is(err, errAlert) || took != closeGrace/2 {
			t.Errorf("read %v after %v, want the alert", err, took)
		}
		if err := c.cause(); !errors.Is(err, errHungUp) {
			t.Errorf("cause is %v", err)
		}
	})
}

// countingConn counts the writes to a real socket.
type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// BenchmarkCoalescer writes records as the library does, one Write each, and
// shows how many writes reach the socket.
func BenchmarkCoalescer(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
	}()
	record := make([]byte, 500)
	for _, direct := range []bool{true, false} {
		name := "coalesced"
		if direct {
			name = "direct"
		}
		b.Run(name, func(b *testing.B) {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			counting := &countingConn{Conn: conn}
			c := newCoalescer(counting, time.Minute)
			defer c.Close()
			b.SetBytes(int64(len(record)))
			c.hold()
			for b.Loop() {
				if direct {
					_, err = counting.Write(record)
				} else {
					c.waitRoom(func() bool { return false })
					_, err = c.Write(record)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			c.release()
			b.ReportMetric(float64(counting.writes.Load())/float64(b.N), "writes/record")
		})
	}
}

// TestCoalescerSendsWholeRecords: the sender is free while half a record is in
// the buffer, and drop leaves no half on the line.
func TestCoalescerSendsWholeRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe(t)
		end, err := c.writeRecord(0, func() error {
			mustWrite(t, c, []byte("head "))
			synctest.Wait()
			mustWrite(t, c, []byte("body "))
			return nil
		})
		if err != nil || end != 10 {
			t.Errorf("the record ends at %d, %v", end, err)
		}
		synctest.Wait() // the sender has it, and is not read
		if end, _ = c.writeRecord(0, func() error { mustWrite(t, c, []byte("never")); return nil }); end != 15 {
			t.Errorf("the second record ends at %d", end)
		}
		if given := c.drop(); given != 10 {
			t.Errorf("%d bytes were given to the sender", given)
		}
		mustWrite(t, c, []byte("bye"))
		got := make([]byte, 64)
		for _, want := range []string{"head body ", "bye"} {
			if n, err := far.Read(got); err != nil || string(got[:n]) != want {
				t.Errorf("read %q, %v, want %q", got[:n], err, want)
			}
		}
	})
}

// TestCoalescerTakesRecordsInTurn: with two at once, no place in the buffer
// would lie between records.
func TestCoalescerTakesRecordsInTurn(t *testing.T) {
	c, _ := pipe(t)
	second, ended := make(chan struct{}), make(chan struct{})
	_, _ = c.writeRecord(0, func() error {
		go func() {
			defer close(ended)
			_, _ = c.writeRecord(0, func() error { close(second); return nil })
		}()
		select {
		case <-second:
			t.Error("a record was written in the middle of another")
		case <-time.After(50 * time.Millisecond):
		}
		return nil
	})
	<-ended
}
