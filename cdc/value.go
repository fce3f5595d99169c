package cdc

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// errNoValue is wrapped by what is asked of a Null or Unchanged value, which
// has no text. Callers look at Format first.
var errNoValue = errors.New("no value")

// form says how the binary format of a type is made.
type form uint8

const (
	formUnknown  form = iota
	formVerbatim      // the bytes of the text format
	formJSONB         // a version byte and the text
	formBytea
	formBool
	formInt2
	formInt4
	formInt8
	formUint4
	formUint8
	formUUID
	formDate
	formTimestamp
	formTimestamptz
)

// formOf returns the binary form of a built-in type, formUnknown for those
// that this package reads as text only. Left out for a reason: float4 and
// float8, because the server's shortest digits are not always Go's; "char",
// whose text differs between server versions; numeric, because its digits are
// as much work here as there.
func formOf(typ uint32) form {
	switch typ {
	case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID, pgtype.NameOID, pgtype.JSONOID:
		return formVerbatim
	case pgtype.JSONBOID:
		return formJSONB
	case pgtype.ByteaOID:
		return formBytea
	case pgtype.BoolOID:
		return formBool
	case pgtype.Int2OID:
		return formInt2
	case pgtype.Int4OID:
		return formInt4
	case pgtype.Int8OID:
		return formInt8
	case pgtype.OIDOID:
		return formUint4
	case pgtype.XID8OID:
		return formUint8
	case pgtype.UUIDOID:
		return formUUID
	case pgtype.DateOID:
		return formDate
	case pgtype.TimestampOID:
		return formTimestamp
	case pgtype.TimestamptzOID:
		return formTimestamptz
	}
	return formUnknown
}

// BinarySafe reports whether every one of types, column type OIDs, is one that
// this package can read in binary format. The binary format is asked for only
// then, so that what is published never depends on the format.
func BinarySafe(types []uint32) bool {
	for _, t := range types {
		if formOf(t) == formUnknown {
			return false
		}
	}
	return true
}

// AppendText appends the value, of a column of type typ (an OID), to dst as
// PostgreSQL's output function for the type writes it, with DateStyle ISO,
// TimeZone UTC and hexadecimal bytea, whatever format it came in. Note that a
// cast to text differs for bool (true for t) and bpchar (blanks trimmed).
//
// It fails for Null and Unchanged, for a binary value of a type that
// BinarySafe denies, and for binary bytes that the type cannot have; dst is
// then returned as it was.
func (v Value) AppendText(dst []byte, typ uint32) ([]byte, error) {
	switch v.Format {
	case Text:
		return append(dst, v.Bytes...), nil
	case Binary:
		return v.appendBinary(dst, typ)
	}
	return dst, v.absent()
}

// AppendBytes appends what was stored, rather than its notation: for bytea the
// bytes themselves, in either format; for all other types what AppendText
// appends. It fails as AppendText does, and for a bytea in text format that is
// not hexadecimal. A domain over bytea is not known to be one: its text is
// appended.
func (v Value) AppendBytes(dst []byte, typ uint32) ([]byte, error) {
	if raw, ok := v.Raw(typ); ok {
		return append(dst, raw...), nil
	}
	if v.Format != Text {
		return v.AppendText(dst, typ)
	}
	// Text that is not raw is a bytea.
	if len(v.Bytes) < 2 || v.Bytes[0] != '\\' || v.Bytes[1] != 'x' {
		return dst, fmt.Errorf(`%w: bytea text without its \x (bytea_output must be hex)`, errMalformed)
	}
	out, err := hex.AppendDecode(dst, v.Bytes[2:])
	if err != nil {
		return dst, fmt.Errorf("%w: bytea text: %w", errMalformed, err)
	}
	return out, nil
}

// Raw returns what AppendBytes would append, without copying, when the value's
// bytes already hold it; ok is false when they do not or when there is no
// value. The result is valid as long as v.Bytes.
func (v Value) Raw(typ uint32) (raw []byte, ok bool) {
	switch v.Format {
	case Text:
		if typ != pgtype.ByteaOID {
			return v.Bytes, true
		}
	case Binary:
		switch formOf(typ) {
		case formVerbatim, formBytea:
			return v.Bytes, true
		case formJSONB:
			if text, err := jsonbText(v.Bytes); err == nil {
				return text, true
			}
		}
	}
	return nil, false
}

// Time returns a timestamptz or timestamp, read in either format, in UTC; a
// timestamp is taken to be UTC. ±infinity is an error, because no time.Time
// stands for it, and so are Null, Unchanged and other types.
func (v Value) Time(typ uint32) (time.Time, error) {
	if typ != pgtype.TimestampOID && typ != pgtype.TimestamptzOID {
		return time.Time{}, fmt.Errorf("read time: type %d is neither timestamptz nor timestamp", typ)
	}
	switch v.Format {
	case Text:
		return parseTimestamp(v.Bytes, typ == pgtype.TimestamptzOID)
	case Binary:
		if len(v.Bytes) != 8 {
			return time.Time{}, badLength(v.Bytes, 8, typ)
		}
		micros := int64(binary.BigEndian.Uint64(v.Bytes))
		if micros == math.MaxInt64 || micros == math.MinInt64 {
			return time.Time{}, errInfinite
		}
		return timeOf(micros), nil
	}
	return time.Time{}, v.absent()
}

// absent is the error for a value that is not there.
func (v Value) absent() error {
	switch v.Format {
	case Null:
		return fmt.Errorf("%w: it is NULL", errNoValue)
	case Unchanged:
		return fmt.Errorf("%w: the stream left out what did not change", errNoValue)
	}
	return fmt.Errorf("%w: format %q", errNoValue, byte(v.Format))
}

// appendBinary is AppendText for a value in binary format.
func (v Value) appendBinary(dst []byte, typ uint32) ([]byte, error) {
	b, f := v.Bytes, formOf(typ)
	if n := f.size(); n > 0 && len(b) != n {
		return dst, badLength(b, n, typ)
	}
	switch f {
	case formVerbatim:
		return append(dst, b...), nil
	case formJSONB:
		text, err := jsonbText(b)
		return append(dst, text...), err
	case formBytea:
		return hex.AppendEncode(append(dst, `\x`...), b), nil
	case formBool:
		if b[0] != 0 {
			return append(dst, 't'), nil
		}
		return append(dst, 'f'), nil
	case formInt2:
		return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(b))), 10), nil
	case formInt4:
		return strconv.AppendInt(dst, int64(int32(binary.BigEndian.Uint32(b))), 10), nil
	case formInt8:
		return strconv.AppendInt(dst, int64(binary.BigEndian.Uint64(b)), 10), nil
	case formUint4:
		return strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(b)), 10), nil
	case formUint8:
		return strconv.AppendUint(dst, binary.BigEndian.Uint64(b), 10), nil
	case formUUID:
		return appendUUID(dst, b), nil
	case formDate:
		return appendDate(dst, int32(binary.BigEndian.Uint32(b))), nil
	case formTimestamp:
		return appendTimestamp(dst, int64(binary.BigEndian.Uint64(b)), ""), nil
	case formTimestamptz:
		return appendTimestamp(dst, int64(binary.BigEndian.Uint64(b)), "+00"), nil
	}
	return dst, fmt.Errorf("read binary value: type %d is one that is read as text only", typ)
}

// size returns the length of every value of the form, 0 when it varies.
func (f form) size() int {
	switch f {
	case formBool:
		return 1
	case formInt2:
		return 2
	case formInt4, formUint4, formDate:
		return 4
	case formInt8, formUint8, formTimestamp, formTimestamptz:
		return 8
	case formUUID:
		return 16
	}
	return 0
}

func badLength(b []byte, want int, typ uint32) error {
	return fmt.Errorf("%w: %d bytes for a binary value of type %d, which has %d", errMalformed, len(b), typ, want)
}

// jsonbText returns the text in a binary jsonb: a version, always 1 so far,
// precedes it.
func jsonbText(b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] != 1 {
		return nil, fmt.Errorf("%w: binary jsonb does not begin with version 1", errMalformed)
	}
	return b[1:], nil
}

func appendUUID(dst, b []byte) []byte {
	dst = append(hex.AppendEncode(dst, b[:4]), '-')
	dst = append(hex.AppendEncode(dst, b[4:6]), '-')
	dst = append(hex.AppendEncode(dst, b[6:8]), '-')
	dst = append(hex.AppendEncode(dst, b[8:10]), '-')
	return hex.AppendEncode(dst, b[10:])
}
