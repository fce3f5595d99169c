package rabbitmq_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// FuzzAnswers gives a publisher anything for an answer, then hangs up: in place
// of the login, or when two records have been sent. Nothing but a confirm is an
// ack, and every record has one outcome.
func FuzzAnswers(f *testing.F) {
	confirm := []byte{0, 60, 0, 80} // basic.ack
	ack := func(channel uint16, tag, multiple byte) []byte {
		return frame(1, channel, append(bytes.Clone(confirm), 0, 0, 0, 0, 0, 0, 0, tag, multiple))
	}
	ended := func(b []byte, by byte) []byte { return append(b[:len(b)-1:len(b)-1], by) }
	for _, answer := range [][]byte{
		nil, {1}, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), []byte("AMQP\x00\x01\x00\x00"),
		ack(2, 1, 0), ack(2, 2, 1), ack(2, 0, 1), ack(2, 99, 0), ack(2, 99, 1), ack(0, 1, 0), ack(7, 1, 0),
		append(ack(2, 1, 0), ack(2, 1, 0)...), ended(ack(2, 1, 0), 0),
		frame(1, 2, []byte{0, 60, 0, 80, 0x40, 0, 0, 0, 0, 0, 0, 0, 1}),                                                  // ack up to 2^62, by a channel of ours
		frame(1, 2, []byte{0, 60, 0, 120, 0, 0, 0, 0, 0, 0, 0, 99, 1, 0}),                                                // nack of what was not sent
		frame(1, 2, append([]byte{0, 60, 0, 50, 1, 56}, "\x08NO_ROUTE\x00\x01x"...)),                                     // return without its content
		append(frame(1, 2, append([]byte{0, 60, 0, 50, 1, 56}, "\x00\x00\x01k"...)), frame(2, 2, make([]byte, 14))...),   // return of nobody
		frame(2, 2, []byte{0, 60, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}), frame(3, 2, []byte("x")), // content of nothing
		frame(1, 2, []byte{0, 20, 0, 40, 1, 0x94, 200, 'x'}), frame(1, 0, []byte{0, 10, 0, 50, 0, 0, 0, 0, 0, 0, 0}), // ends, cut short
		frame(1, 2, []byte{0, 99, 0, 99}), frame(9, 1, nil), frame(8, 1, []byte("beat")),
		{1, 0, 2, 0xff, 0xff, 0xff, 0xff}, {3, 0, 2, 0x7f, 0xff, 0xff, 0xff, 'x'},
		frame(1, 0, []byte{0, 10, 0, 10, 0, 9, 0, 0, 0, 4, 1, 'x', 'F', 0xff}), // start with a table that is none
	} {
		f.Add(true, answer)
		f.Add(false, answer)
	}
	f.Fuzz(func(t *testing.T, atLogin bool, answer []byte) {
		synctest.Test(t, func(t *testing.T) { // the library waits 10 seconds after some
			if atLogin {
				answerLogin(t, answer)
			} else {
				answerRecords(t, answer, bytes.Contains(answer, confirm))
			}
		})
	})
}

func answerRecords(t *testing.T, answer []byte, confirms bool) {
	_, config := newScript(t, batch(2, func(s *script, _ []published) {
		s.write(answer)
		_ = s.conn.Close()
	}))
	config.Channels = 1
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	mustPublish(t, p, record(0, "a"), record(1, "b"))
	got.wait(2)
	_ = shut(t, p, time.Minute)
	for token := range uint64(2) {
		if got.err(token) == nil && !confirms {
			t.Errorf("record %d is acked by %x", token, answer)
		}
	}
}

// answerLogin opens a publisher to a broker that says nothing else.
func answerLogin(t *testing.T, answer []byte) {
	p, err := rabbitmq.Open(t.Context(), rabbitmq.Config{
		Hosts: []string{"hostile:5672"},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			go func() {
				_, _ = theirs.Write(answer)
				_ = theirs.Close()
			}()
			return ours, nil
		},
	}, nil, nil)
	if err == nil {
		_ = shut(t, p, 0)
		t.Errorf("logged in by %x", answer)
	}
}
