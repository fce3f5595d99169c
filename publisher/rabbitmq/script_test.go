package rabbitmq_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// script is a broker whose answers a test writes: orders of confirms, floods of
// returns, silences, which a real broker gives only by chance. It knows just
// the methods that a publisher needs.
type script struct {
	t         testing.TB
	onPublish func(s *script, p published) // runs on the connection's reader
	mute      atomic.Bool                  // says nothing, not even that it lives
	bytewise  bool                         // says each byte by itself

	mu      sync.Mutex
	conn    net.Conn
	tags    map[uint16]uint64
	startOK []byte // the client's answer to connection.start
	closed  chan struct{}
}

// published is one message as it came.
type published struct {
	channel    uint16
	tag        uint64
	exchange   string
	routingKey string
	mandatory  bool
	header     []byte // payload of the header frame
	body       []byte
}

// newScript returns a broker and a configuration that reaches it over a pipe.
func newScript(t testing.TB, onPublish func(*script, published)) (*script, rabbitmq.Config) {
	s := &script{t: t, onPublish: onPublish, tags: make(map[uint16]uint64), closed: make(chan struct{})}
	return s, rabbitmq.Config{
		Hosts: []string{"script:5672"}, User: "ann", Password: "s3cr3t", Exchange: "events",
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			s.conn = ours
			go s.serve()
			return theirs, nil
		},
	}
}

func (s *script) serve() {
	defer close(s.closed)
	go s.beat()
	r := bufio.NewReader(s.conn)
	if _, err := io.CopyN(io.Discard, r, 8); err != nil { // protocol header
		return
	}
	start := append([]byte{0, 9, 0, 0, 0, 0}, longString("PLAIN")...)
	s.method(0, 10, 10, append(start, longString("en_US")...))
	var pending published
	var want uint64
	for {
		typ, channel, payload, err := readFrame(r)
		if err != nil {
			return
		}
		switch typ {
		case 1:
			id := binary.BigEndian.Uint32(payload)
			if id == 60<<16|40 {
				pending = parsePublish(channel, payload[4:])
				continue
			}
			if s.answer(channel, id, payload) {
				_ = s.conn.Close()
				return
			}
		case 2:
			pending.header = payload
			want = binary.BigEndian.Uint64(payload[4:])
		case 3:
			pending.body = append(pending.body, payload...)
		}
		if (typ == 2 || typ == 3) && uint64(len(pending.body)) == want {
			s.tags[channel]++
			pending.tag = s.tags[channel]
			s.onPublish(s, pending)
		}
	}
}

// beat sends heartbeats.
func (s *script) beat() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.write(frame(8, 0, nil))
		case <-s.closed:
			return
		}
	}
}

// answer answers a method and says whether the connection is over.
func (s *script) answer(channel uint16, id uint32, payload []byte) bool {
	switch id {
	case 10<<16 | 11: // start-ok
		s.mu.Lock()
		s.startOK = payload
		s.mu.Unlock()
		s.method(0, 10, 30, []byte{0, 0, 0, 2, 0, 0, 0, 10}) // tune: frames of 131072, heartbeat 10 s
	case 10<<16 | 40: // open
		s.method(0, 10, 41, []byte{0})
	case 20<<16 | 10: // channel.open
		s.method(channel, 20, 11, []byte{0, 0, 0, 0})
	case 20<<16 | 40: // channel.close
		s.method(channel, 20, 41, nil)
	case 40<<16 | 10: // exchange.declare
		s.method(channel, 40, 11, nil)
	case 85<<16 | 10: // confirm.select
		s.method(channel, 85, 11, nil)
	case 10<<16 | 50: // close
		s.method(0, 10, 51, nil)
		return true
	}
	return false
}

func readFrame(r io.Reader) (typ byte, channel uint16, payload []byte, err error) {
	var head [7]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, nil, err
	}
	payload = make([]byte, binary.BigEndian.Uint32(head[3:])+1)
	_, err = io.ReadFull(r, payload)
	return head[0], binary.BigEndian.Uint16(head[1:]), payload[:len(payload)-1], err
}

func parsePublish(channel uint16, args []byte) published {
	exchange, args := cutShort(args[2:])
	key, args := cutShort(args)
	return published{channel: channel, exchange: exchange, routingKey: key, mandatory: args[0]&1 != 0}
}

func cutShort(b []byte) (string, []byte) {
	n := int(b[0])
	return string(b[1 : 1+n]), b[1+n:]
}

func shortString(v string) []byte { return append([]byte{byte(len(v))}, v...) }

func longString(v string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(v))), v...)
}

// write sends one frame after the other. A client that is gone is no error.
func (s *script) write(frames ...[]byte) {
	if s.mute.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := bytes.Join(frames, nil)
	for s.bytewise && len(all) > 1 {
		_, _ = s.conn.Write(all[:1])
		all = all[1:]
	}
	_, _ = s.conn.Write(all)
}

func frame(typ byte, channel uint16, payload []byte) []byte {
	f := binary.BigEndian.AppendUint16([]byte{typ}, channel)
	f = binary.BigEndian.AppendUint32(f, uint32(len(payload)))
	return append(append(f, payload...), 0xce)
}

func (s *script) method(channel, class, method uint16, args []byte) {
	payload := binary.BigEndian.AppendUint16(nil, class)
	payload = binary.BigEndian.AppendUint16(payload, method)
	s.write(frame(1, channel, append(payload, args...)))
}

func (s *script) ack(p published, multiple bool) {
	args := append(binary.BigEndian.AppendUint64(nil, p.tag), 0)
	if multiple {
		args[8] = 1
	}
	s.method(p.channel, 60, 80, args)
}

func (s *script) nack(p published) {
	s.method(p.channel, 60, 120, append(binary.BigEndian.AppendUint64(nil, p.tag), 0))
}

// giveBack returns the message as unroutable.
func (s *script) giveBack(p published) {
	args := append([]byte{0, 60, 0, 50, 1, 56}, shortString("NO_ROUTE")...)
	args = append(append(args, shortString(p.exchange)...), shortString(p.routingKey)...)
	frames := [][]byte{frame(1, p.channel, args), frame(2, p.channel, p.header)}
	if len(p.body) > 0 {
		frames = append(frames, frame(3, p.channel, p.body))
	}
	s.write(frames...)
}

func (s *script) closeChannel(p published, code uint16, text string) {
	args := append(binary.BigEndian.AppendUint16(nil, code), shortString(text)...)
	s.method(p.channel, 20, 40, append(args, 0, 60, 0, 40))
}

func (s *script) block(reason string) { s.method(0, 10, 60, shortString(reason)) }
func (s *script) unblock()            { s.method(0, 10, 61, nil) }
