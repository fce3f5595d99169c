//go:build long

package parked_test

import (
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
)

// TestLongSlowLine: an event that takes longer to the database than a statement may
// is parked all the same, and read again.
func TestLongSlowLine(t *testing.T) {
	y := newYard(t)
	y.store.Database = slowLine(t, y.url, 10<<10)
	lot, _ := y.open()
	e := event(at(0x10, 0), "a", "too_large")
	e.Payload = make([]byte, 700<<10)
	park(t, lot, e)
	if _, err := y.desk().Mark(t.Context(), parked.Selection{All: true}, parked.Retry, ""); err != nil {
		t.Fatal(err)
	}
	m, err := lot.Marked(t.Context(), cdc.Position{}, nil)
	if err != nil || len(m.Retries) != 1 || len(m.Retries[0].Payload) != len(e.Payload) {
		t.Errorf("%d events, %v", len(m.Retries), err)
	}
}

// slowLine returns database by way of a line that passes so many bytes a second.
func slowLine(t *testing.T, database string, speed int) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	crawl := func(to, from net.Conn) {
		defer to.Close()
		piece := make([]byte, 1<<10)
		for {
			n, err := from.Read(piece)
			if err == nil {
				_, err = to.Write(piece[:n])
			}
			if err != nil {
				return
			}
			time.Sleep(time.Duration(n) * time.Second / time.Duration(speed))
		}
	}
	go func() {
		for {
			here, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", server)
			if err != nil {
				_ = here.Close()
				return
			}
			go crawl(there, here)
			go crawl(here, there)
		}
	}()
	u.Host = listener.Addr().String()
	return u.String()
}
