package outbox

import (
	"crypto/rand"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"time"
)

// ID is the id of an event: a UUID, which consumers use to drop what they have
// seen before. The zero ID means "none yet": Write and Emit replace it by a
// NewID. An ID works as an argument and as a scan target for a uuid column,
// with pgx as with database/sql, and as text in JSON.
type ID [16]byte

// lastTick is the newest tick that an id of this process carries. It is the
// one variable of the package that changes, because RFC 9562 asks for ids that
// increase within a process, whichever Table they are made for.
var lastTick atomic.Int64

// NewID returns a UUID of version 7 (RFC 9562, section 5.7). Ids increase
// strictly within a process, also when the clock stands still or is set back:
// they then run ahead of it. It is safe for concurrent use.
//
// The twelve bits after the milliseconds are a fraction of the millisecond
// (RFC 9562, section 6.2, method 3), the remaining 62 are random.
func NewID() ID {
	return makeID(nextTick(&lastTick, time.Now()))
}

// A tick is 1/4096 of a millisecond since 1970, about 244 ns.
const ticksPerMilli = 1 << 12

// nextTick returns the tick of now, or the one after last if that is not
// newer, and stores it as last. When two goroutines read the same last, one
// CompareAndSwap fails and its goroutine looks again, so no tick is used twice.
func nextTick(last *atomic.Int64, now time.Time) int64 {
	milli := now.UnixMilli()
	fraction := now.Sub(time.UnixMilli(milli)).Nanoseconds()
	tick := milli*ticksPerMilli + fraction*ticksPerMilli/int64(time.Millisecond)
	for {
		old := last.Load()
		next := max(tick, old+1)
		if last.CompareAndSwap(old, next) {
			return next
		}
	}
}

func makeID(tick int64) ID {
	var id ID
	milli, fraction := uint64(tick)/ticksPerMilli, uint64(tick)%ticksPerMilli
	binary.BigEndian.PutUint64(id[:8], milli<<16|0x7000|fraction)
	rand.Read(id[8:]) // never fails: the process ends when the system has no randomness
	id[8] = id[8]&0x3f | 0x80
	return id
}

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// Time returns when an id of version 7 was made, to the millisecond, and the
// zero Time for an id of another version.
func (id ID) Time() time.Time {
	if id[6]>>4 != 7 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16))
}

// String returns the canonical form: 36 characters, lower case.
func (id ID) String() string { return string(id.append(nil)) }

func (id ID) append(dst []byte) []byte {
	for i, part := range [][]byte{id[0:4], id[4:6], id[6:8], id[8:10], id[10:16]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}

// ParseID reads a UUID of any version in its canonical form of 36 characters,
// in either case.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, errNotID(s)
	}
	digits := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return ID{}, errNotID(s)
	}
	return id, nil
}

func errNotID(s string) error {
	return fmt.Errorf("parse id: %s is not a UUID like 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44", quoteShort(s))
}

// MarshalText returns the canonical form.
func (id ID) MarshalText() ([]byte, error) { return id.append(nil), nil }

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Value returns the canonical form, so that an ID can be an argument of a
// statement.
func (id ID) Value() (driver.Value, error) { return id.String(), nil }

// Scan reads a uuid column: its text, as string or bytes. NULL is an error:
// where it may occur, scan into a variable of type *ID.
func (id *ID) Scan(src any) error {
	switch src := src.(type) {
	case string:
		return id.UnmarshalText([]byte(src))
	case []byte:
		return id.UnmarshalText(src)
	default:
		return fmt.Errorf("scan id: a %T is not the text of a UUID", src)
	}
}

// quoteShort quotes s for an error message, cut to what a reader can use.
func quoteShort(s string) string {
	const limit = 60
	if len(s) > limit {
		return fmt.Sprintf("%q… (%d bytes)", s[:limit], len(s))
	}
	return fmt.Sprintf("%q", s)
}
