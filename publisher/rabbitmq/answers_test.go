package rabbitmq

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

// readConn is a connection that is only read.
type readConn struct {
	net.Conn
	io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// method is a frame of one, whose size may be a lie.
func method(class, id uint16, arguments string, lie int) string {
	payload := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, class), id)
	payload = append(payload, arguments...)
	head := binary.BigEndian.AppendUint32([]byte{methodFrame, 0, 1}, uint32(len(payload)+lie))
	return string(head) + string(payload) + "\xce"
}

func TestAnswerCheck(t *testing.T) {
	ack := func(tag byte, lie int) string {
		return method(60, 80, "\x00\x00\x00\x00\x00\x00\x00"+string(tag)+"\x01", lie)
	}
	const content = "\x02\x00\x01\x00\x00\x00\x0f" + "not \x01 looked at" + "\xce"
	for name, f := range map[string]struct {
		passes, refused string
		err             error // of what is refused
	}{
		"nothing":        {"", "", nil},
		"confirms":       {ack(1, 0) + ack(3, 0) + method(60, 120, strings.Repeat("\x00", 9), 0), "", nil},
		"content":        {method(60, 50, "\x01\x38\x02no\x01e\x01k", 0) + content + ack(2, 0), "", nil},
		"start":          {method(10, 10, "\x00\x09"+strings.Repeat("\x00\x00\x00\x02ab", 3), 0), "", nil},
		"close":          {method(20, 40, "\x01\x94\x05where\x00\x3c\x00\x28", 0) + method(20, 41, "", 0), "", nil},
		"heartbeat":      {"\x08\x00\x00\x00\x00\x00\x00\xce" + ack(1, 0), "", nil},
		"not AMQP":       {"HTTP/1.1 400 Bad Request\r\n\r\n", "", nil}, // the library says that
		"never sent":     {ack(3, 0), ack(4, 0), errConfirm},
		"size too small": {"", ack(1, -1), errAnswer},
		"size too large": {"", ack(1, 1) + content, errAnswer},
		"no size":        {"", ack(1, -13), errAnswer},
		"long string":    {"", method(10, 41, "\x05abc", 0), errAnswer},
		"long table":     {"", method(10, 10, "\x00\x09\xff\xff\xff\xff", 0), errAnswer},
		"too large":      {content, method(20, 11, "\x00\x00\x00\x00", frameSize), errAnswer},
		"of a server":    {ack(2, 0), method(60, 40, "", 0), errAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			for _, cut := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader} {
				c := newAnswerCheck(readConn{Reader: cut(strings.NewReader(f.passes + f.refused))})
				c.sent.Store(3)
				if got, err := io.ReadAll(c); string(got) != f.passes || !errors.Is(err, f.err) {
					t.Errorf("%q passes, then %v; want %q, %v", got, err, f.passes, f.err)
				}
			}
		})
	}
}
