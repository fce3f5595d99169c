package rabbitmq_test

import (
	"encoding/binary"
	"testing"

	"github.com/outboxd/outboxd/publisher"
)

// Records survive a restart of the broker unless that is given up for speed.
func TestRecordsArePersistent(t *testing.T) {
	for transient, want := range map[bool]byte{false: 2, true: 1} {
		modes := make(chan byte, 1)
		_, config := newScript(t, func(s *script, p published) {
			modes <- deliveryMode(t, p)
			s.ack(p, false)
		})
		config.Transient = transient
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		mustPublish(t, p, &publisher.Record{Topic: "a", Key: []byte("a"), Value: []byte("{}")})
		if mode := <-modes; mode != want {
			t.Errorf("transient %t: delivery mode %d, want %d", transient, mode, want)
		}
		got.wait(1)
	}
}

// deliveryMode is the property of a message that has none before it: no content
// type, no encoding, no headers.
func deliveryMode(t *testing.T, p published) byte {
	const (
		fixed  = 12 // class, weight and size of the body stand before the flags
		mode   = 1 << 12
		before = 1<<15 | 1<<14 | 1<<13
	)
	flags := binary.BigEndian.Uint16(p.header[fixed:])
	if flags&before != 0 || flags&mode == 0 {
		t.Errorf("the message has the properties %016b", flags)
		return 0
	}
	return p.header[fixed+2]
}
