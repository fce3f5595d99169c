package publisher_test

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/outboxd/outboxd/publisher"
)

func TestGuardConn(t *testing.T) {
	near, far := net.Pipe()
	errLease := errors.New("lease ran out")
	var refuse error
	conn := publisher.GuardConn(near, func() error { return refuse })
	arrived := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(far)
		arrived <- b
	}()
	if _, err := conn.Write([]byte("before")); err != nil {
		t.Fatal(err)
	}
	refuse = errLease
	if n, err := conn.Write([]byte("refused")); n != 0 || !errors.Is(err, errLease) {
		t.Errorf("write = %d, %v, want 0 and the guard's error", n, err)
	}
	// A guard that relents finds the connection closed: what a library tries
	// again on it must not arrive late.
	refuse = nil
	if _, err := conn.Write([]byte("late")); err == nil {
		t.Error("the connection still takes bytes")
		_ = near.Close()
	}
	if got := <-arrived; string(got) != "before" {
		t.Errorf("%q arrived, want only what was written before", got)
	}
}

func TestGuardConnWithoutGuard(t *testing.T) {
	conn, far := net.Pipe()
	defer far.Close()
	defer conn.Close()
	if got := publisher.GuardConn(conn, nil); got != conn {
		t.Errorf("GuardConn without a guard = %v, want the connection itself", got)
	}
}
