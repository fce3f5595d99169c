package cdc

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"

	"github.com/jackc/pglogrepl"
)

// LSN is a position in the write-ahead log, in bytes.
type LSN = pglogrepl.LSN

// Position names one event of one pipeline for ever. Positions of one pipeline
// compare like the tuple (Epoch, Commit, Ordinal), and so do their texts.
type Position struct {
	// Epoch rises when LSNs start again or branch: a new system identifier or
	// a new timeline. It begins at 1.
	Epoch uint16
	// Commit is the LSN of the transaction's commit record, as Begin gives it.
	Commit LSN
	// Ordinal counts the events of the transaction from 0, in the order in
	// which they were written, before any routing.
	Ordinal uint32
}

// positionLen is the length of every position's text.
const positionLen = 4 + 1 + 16 + 1 + 8

// AppendText appends the position as fixed-width lower-case hexadecimal,
// epoch.commit.ordinal: 0001.00000000016b3748.00000000. It never fails.
func (p Position) AppendText(b []byte) ([]byte, error) {
	var raw [14]byte
	binary.BigEndian.PutUint16(raw[0:], p.Epoch)
	binary.BigEndian.PutUint64(raw[2:], uint64(p.Commit))
	binary.BigEndian.PutUint32(raw[10:], p.Ordinal)
	b = hex.AppendEncode(b, raw[0:2])
	b = append(b, '.')
	b = hex.AppendEncode(b, raw[2:10])
	b = append(b, '.')
	return hex.AppendEncode(b, raw[10:14]), nil
}

// String is AppendText as a string.
func (p Position) String() string {
	b, _ := p.AppendText(make([]byte, 0, positionLen))
	return string(b)
}

// ParsePosition reads what String wrote.
func ParsePosition(s string) (Position, error) {
	bad := errors.New("parse position " + strconv.Quote(s) + ": want epoch.commit.ordinal as in 0001.00000000016b3748.00000000")
	if len(s) != positionLen || s[4] != '.' || s[21] != '.' {
		return Position{}, bad
	}
	epoch, err1 := strconv.ParseUint(s[:4], 16, 16)
	commit, err2 := strconv.ParseUint(s[5:21], 16, 64)
	ordinal, err3 := strconv.ParseUint(s[22:], 16, 32)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Position{}, bad
	}
	return Position{Epoch: uint16(epoch), Commit: LSN(commit), Ordinal: uint32(ordinal)}, nil
}
