package rabbitmq

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
)

// answerCheck ends a connection over a method that a broker has no reason to
// send, before the library sees any of it. Two things are not survived there: a
// confirm of several whose tag was never sent, because the library counts up to
// it, with a tag of 2^62 for ever; and a method of another size than its frame
// says, because the library reads on behind the frame, and takes for frames what
// was none. Read is for one goroutine at a time.
type answerCheck struct {
	net.Conn
	sent atomic.Uint64 // records, on all channels

	in    *bufio.Reader // reads from Conn
	frame []byte        // the last one, of a method all of it, else its head
	ready []byte        // what of frame is still to be read
	skip  int64         // bytes behind the head of a frame that is no method
}

func newAnswerCheck(conn net.Conn) *answerCheck {
	return &answerCheck{Conn: conn, in: bufio.NewReader(conn)}
}

const (
	frameHead   = 7 // type, channel, size
	methodFrame = 1
	basicAck    = 60<<16 | 80
	basicNack   = 60<<16 | 120
)

var (
	errConfirm = errors.New("the broker confirms what was not sent")
	errAnswer  = errors.New("the broker's answer is not one of the protocol's")
)

func (c *answerCheck) Read(p []byte) (int, error) {
	if len(c.ready) == 0 && c.skip > 0 {
		n, err := c.in.Read(p[:min(c.skip, int64(len(p)))])
		c.skip -= int64(n)
		return n, err
	}
	if len(c.ready) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
		c.ready = c.frame
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

// next reads the head of a frame, and all of a method.
func (c *answerCheck) next() error {
	if err := c.fill(0, frameHead); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(c.frame[3:])
	if c.frame[0] != methodFrame {
		c.skip = int64(size) + 1 // a byte ends each frame
		return nil
	}
	if size > frameSize {
		return fmt.Errorf("%w: a method of %d bytes", errAnswer, size)
	}
	if err := c.fill(frameHead, int(size)+1); err != nil {
		return err
	}
	return c.check(c.frame[frameHead : frameHead+size])
}

// fill reads n bytes of the frame, behind the first so many.
func (c *answerCheck) fill(have, n int) error {
	c.frame = slices.Grow(c.frame[:have], n)[:have+n]
	_, err := io.ReadFull(c.in, c.frame[have:])
	return err
}

func (c *answerCheck) check(method []byte) error {
	if len(method) < 4 {
		return errAnswer
	}
	id, arguments := binary.BigEndian.Uint32(method), method[4:]
	if layout, known := layoutOf(id); !known || !fits(layout, arguments) {
		return fmt.Errorf("%w: method %d.%d, with %d bytes of arguments", errAnswer, id>>16, id&0xffff, len(arguments))
	}
	if (id == basicAck || id == basicNack) && binary.BigEndian.Uint64(arguments) > c.sent.Load() {
		return errConfirm
	}
	return nil
}

// layoutOf is what the arguments of a method are that a broker may send to a
// publisher: a short string, a long string or table, or so many bytes.
func layoutOf(method uint32) (layout string, known bool) {
	switch method {
	case 10<<16 | 10: // connection.start
		return "2lll", true
	case 10<<16 | 20: // connection.secure
		return "l", true
	case 10<<16 | 30: // connection.tune
		return "8", true
	case 10<<16 | 41, 10<<16 | 60: // connection.open-ok, connection.blocked
		return "s", true
	case 10<<16 | 50, 20<<16 | 40: // connection.close, channel.close
		return "2s4", true
	case 20<<16 | 11: // channel.open-ok
		return "l", true
	case 20<<16 | 20: // channel.flow
		return "1", true
	case 60<<16 | 50: // basic.return
		return "2sss", true
	case basicAck, basicNack:
		return "9", true
	case 10<<16 | 51, 10<<16 | 61, // connection.close-ok, connection.unblocked
		20<<16 | 41, 40<<16 | 11, 85<<16 | 11: // channel.close-ok, exchange.declare-ok, confirm.select-ok
		return "", true
	}
	return "", false
}

func fits(layout string, arguments []byte) bool {
	for _, field := range layout {
		n := 1
		switch {
		case field == 's' && len(arguments) >= 1:
			n = 1 + int(arguments[0])
		case field == 'l' && len(arguments) >= 4:
			n = 4 + int(binary.BigEndian.Uint32(arguments))
		case field <= '9':
			n = int(field - '0')
		}
		if n > len(arguments) {
			return false
		}
		arguments = arguments[n:]
	}
	return len(arguments) == 0
}
