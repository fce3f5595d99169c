package kafka_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// A write that takes longer than its deadline as a whole goes on while it moves,
// and the guard is asked on the way.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		asked := 0
		conn := kafka.PaceConn(publisher.GuardConn(near, func() error { asked++; return nil }))
		request, b := make([]byte, 2<<20), make([]byte, 64<<10)
		go func() {
			for range len(request) / len(b) {
				time.Sleep(time.Second)
				_, _ = io.ReadFull(far, b)
			}
		}()
		began := time.Now()
		_ = conn.SetWriteDeadline(began.Add(10 * time.Second))
		if n, err := conn.Write(request); n != len(request) || err != nil {
			t.Errorf("%d bytes of %d in %s: %v", n, len(request), time.Since(began), err)
		}
		if asked < 8 {
			t.Errorf("the guard was asked %d times", asked)
		}
		// Nobody reads any more.
		began = time.Now()
		_ = conn.SetWriteDeadline(began.Add(10 * time.Second))
		if _, err := conn.Write(request); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		_ = conn.SetWriteDeadline(time.Time{})
		go func() { _, _ = io.ReadFull(far, request[:1000]) }()
		if _, err := conn.Write(request[:1000]); err != nil {
			t.Errorf("without a deadline: %v", err)
		}
	})
}

// Who gives up a request sets a deadline that has passed: no piece moves it.
func TestPaceIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		conn := kafka.PaceConn(near)
		_ = conn.SetWriteDeadline(time.Now().Add(time.Hour))
		read := make([]byte, 256<<10)
		go func() {
			_, _ = io.ReadFull(far, read[1:])
			_ = conn.SetWriteDeadline(time.Now())
			_, _ = io.ReadFull(far, read)
		}()
		if n, err := conn.Write(make([]byte, 1<<20)); n > len(read) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes, then %v", n, err)
		}
		_ = far.Close()
	})
}
