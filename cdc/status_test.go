package cdc

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// status is a standby status update as the server reads it.
type status struct {
	write, flush, apply LSN
	reply               bool
}

// readStatus reads the CopyData of one, which is all that a session writes.
func readStatus(r io.Reader) (status, error) {
	frame := make([]byte, 5+statusLen)
	if _, err := io.ReadFull(r, frame); err != nil {
		return status{}, err
	}
	b := frame[6:] // behind the frame's header and the letter r
	lsn := func(i int) LSN { return LSN(binary.BigEndian.Uint64(b[8*i:])) }
	return status{lsn(0), lsn(1), lsn(2), b[32] == 1}, nil
}

// runScripted runs a stream with its status writer, for an hour at most, and
// returns what Run returns.
func runScripted(t *testing.T, s *Stream, h Handler) <-chan error {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(stop)
	go s.writeStatus(ctx)
	result := make(chan error, 1)
	go func() { result <- s.Run(ctx, h) }()
	return result
}

func noEvent(context.Context, *Message) error { return nil }

// What was received is written, and no more is flushed than what is durable.
func TestStatusFlushesOnlyWhatIsDurable(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	s := newScripted(t, client)
	s.see(500)
	go s.sendStatus(300, false)
	if got, err := readStatus(server); err != nil || got != (status{500, 300, 300, false}) {
		t.Errorf("%+v, %v", got, err)
	}
	go s.sendStatus(600, true) // the row of the witness knows more than this session
	if got, err := readStatus(server); err != nil || got != (status{600, 600, 600, true}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// A server that shuts down answers each status with a wish for the next.
func TestStoppingServerIsAnsweredWithPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		s := newScripted(t, client)
		runScripted(t, s, noEvent)
		wish := (&script{t: t}).keepalive(100, true).out
		last := time.Now().Add(-time.Hour)
		for range 20 {
			if _, err := server.Write(wish); err != nil {
				t.Fatal(err)
			}
			if _, err := readStatus(server); err != nil {
				t.Fatal(err)
			}
			if pause := time.Since(last); pause < minReplyInterval {
				t.Fatalf("answered again after %s", pause)
			}
			last = time.Now()
		}
		_ = server.Close()
	})
}

// A server that says nothing is asked, and given up after its own timeout: it
// would have given us up, too.
func TestSilentServerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		s := newScripted(t, client)
		began := time.Now()
		result := runScripted(t, s, noEvent)
		var asked atomic.Int64
		go func() {
			for {
				st, err := readStatus(server)
				if err != nil {
					return
				}
				if st.reply {
					asked.Add(1)
				}
			}
		}()
		err := <-result
		if code(err) != CodeUnreachable {
			t.Errorf("the session ended with %v", err)
		}
		if took := time.Since(began); took <= s.timeout || took > s.timeout+2*tick {
			t.Errorf("given up after %s, with a timeout of %s", took, s.timeout)
		}
		if n := asked.Load(); n < int64(s.timeout/tick) {
			t.Errorf("asked %d times", n)
		}
		_ = server.Close()
	})
}

// A message that takes longer than the timeout to arrive is no silence while it
// comes, on a line that is slow for its size.
func TestSlowMessageIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		s := newScripted(t, client)
		var handled atomic.Int64
		runScripted(t, s, func(context.Context, *Message) error {
			handled.Add(1)
			return nil
		})
		go io.Copy(io.Discard, server)
		defer server.Close()
		large := (&script{t: t}).begin(100).logical(true, 90, strings.Repeat("x", 1<<20)).out
		for began := time.Now(); time.Since(began) < 3*s.timeout; time.Sleep(tick) {
			_ = server.SetWriteDeadline(time.Now().Add(tick)) // nobody reads once it is given up
			if _, err := server.Write(large[:1000]); err != nil {
				t.Fatalf("given up after %s: %v", time.Since(began), err)
			}
			large = large[1000:]
		}
		_ = server.SetWriteDeadline(time.Time{})
		if _, err := server.Write(large); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := handled.Load(); n != 1 {
			t.Errorf("%d messages are handled", n)
		}
	})
}

// Nobody reads while the handler blocks: that is not the server's silence.
func TestBlockedHandlerIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		s := newScripted(t, client)
		blocked := 10 * s.timeout
		began := time.Now()
		result := runScripted(t, s, func(context.Context, *Message) error {
			time.Sleep(blocked)
			return nil
		})
		go io.Copy(io.Discard, server)
		script := (&script{t: t}).begin(100).logical(true, 90, "a")
		if _, err := server.Write(script.out); err != nil {
			t.Fatal(err)
		}
		if err := <-result; code(err) != CodeUnreachable || time.Since(began) <= blocked {
			t.Errorf("the session ended after %s: %v", time.Since(began), err)
		}
		_ = server.Close()
	})
}

// The reader waits while the queue has no room, and goes on when it has.
func TestReaderWaitsForRoomInQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		s := newScripted(t, client)
		var first uint64
		for i := range maxSpan {
			token, _ := s.r.queue.event(place{1, uint32(i)}, time.Time{})
			if i == 0 {
				first = token
			} else {
				s.r.Ack(token)
			}
		}
		const messages, perMessage = 600, 50
		var handled atomic.Int64
		result := runScripted(t, s, func(_ context.Context, m *Message) error {
			for range perMessage {
				d, _ := m.Next()
				s.r.Ack(d.Token)
				handled.Add(1)
			}
			return nil
		})
		go io.Copy(io.Discard, server)
		script := (&script{t: t}).begin(100)
		for range messages {
			script.logical(true, 90, "a")
		}
		go func() {
			_, _ = server.Write(script.out)
			_ = server.Close()
		}()
		time.Sleep(s.timeout)
		if n := handled.Load(); n > 256+perMessage {
			t.Errorf("%d events are taken while the queue is full", n)
		}
		s.r.Ack(first)
		<-result
		if n := handled.Load(); n != messages*perMessage {
			t.Errorf("%d of %d events are taken when there is room", n, messages*perMessage)
		}
	})
}
