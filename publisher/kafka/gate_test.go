package kafka_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher/kafka"
)

// TestGate: what the client sends while a lane hands records over leaves when
// it has handed over all.
func TestGate(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	var gate sync.RWMutex
	conn := kafka.GateConn(near, &gate)
	arrived := make(chan error, 1)
	go func() {
		var b [1]byte
		_, err := far.Read(b[:])
		arrived <- err
	}()
	gate.Lock()
	go func() { _, _ = conn.Write([]byte("w")) }()
	select {
	case <-arrived:
		t.Fatal("a write passed the closed gate")
	case <-time.After(50 * time.Millisecond):
	}
	gate.Unlock()
	if err := <-arrived; err != nil {
		t.Error(err)
	}
}
