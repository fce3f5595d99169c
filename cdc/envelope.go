package cdc

import (
	"encoding/binary"
	"time"
)

// envelope is one message of the streaming replication protocol, as CopyData
// carries it.
type envelope struct {
	kind byte // 'w' XLogData or 'k' keepalive
	// start is where the data begins in the WAL (w). Relation, Type and some
	// Begin messages carry 0.
	start LSN
	// end is the server's position: of its WAL (w), or of the last record that
	// it has decoded and sent (k).
	end LSN
	// sendTime is the server's clock when it sent this.
	sendTime time.Time
	reply    bool   // k: answer at once
	data     []byte // w: one pgoutput message; aliases the input
}

// decodeEnvelope reads data into e, overwriting all of it. An error wraps
// errMalformed.
func decodeEnvelope(data []byte, e *envelope) error {
	c := cursor{data: data}
	*e = envelope{kind: c.byte("type")}
	switch e.kind {
	case 'w':
		e.start = c.lsn("start LSN")
		e.end = c.lsn("end LSN")
		e.sendTime = c.time("send time")
		e.data = c.data[c.off:len(c.data):len(c.data)]
	case 'k':
		e.end = c.lsn("end LSN")
		e.sendTime = c.time("send time")
		e.reply = c.byte("reply flag") != 0
	default:
		c.fail("unknown replication message type")
	}
	return c.err()
}

// statusLen is the length of a standby status update.
const statusLen = 1 + 3*8 + 8 + 1

// appendStatus appends a standby status update: the positions written, flushed
// and applied, the clock, and whether the server is to answer at once. The
// positions are sent as given, zeroes too: a zero flush confirms nothing.
func appendStatus(b []byte, write, flush, apply LSN, now time.Time, reply bool) []byte {
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(write))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, uint64(apply))
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMicro()-epoch2000*1_000_000))
	if reply {
		return append(b, 1)
	}
	return append(b, 0)
}
