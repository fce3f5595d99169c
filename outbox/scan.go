package outbox

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
)

// maxNesting is the depth up to which a payload is embedded in a message: what
// encoding/json reads (10,000), less what the message adds around it.
const maxNesting = 9_990

// scanner walks text that json.Valid has approved and gives out the values in
// it as they are written. It only finds where they end; on other text it gives
// wrong answers, but stays within bounds.
type scanner struct {
	buf []byte
	pos int
}

// next skips white space and separators and returns the byte at the new
// position, 0 at the end.
func (s *scanner) next() byte {
	for ; s.pos < len(s.buf); s.pos++ {
		switch c := s.buf[s.pos]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
		default:
			return c
		}
	}
	return 0
}

// value returns the next value, without the space around it, and how deep
// arrays and objects are nested in it.
func (s *scanner) value() (raw []byte, nesting int) {
	c := s.next()
	start := s.pos
	switch c {
	case '"':
		s.skipString()
	case '{', '[':
		nesting = s.skipNested()
	default:
		for s.pos < len(s.buf) && bytes.IndexByte([]byte(" \t\r\n,:]}"), s.buf[s.pos]) < 0 {
			s.pos++
		}
	}
	return s.buf[start:s.pos], nesting
}

// skipString moves from an opening quote to behind the closing one.
func (s *scanner) skipString() {
	for s.pos++; s.pos < len(s.buf); s.pos++ {
		switch s.buf[s.pos] {
		case '\\':
			s.pos++
		case '"':
			s.pos++
			return
		}
	}
	s.pos = len(s.buf)
}

// skipNested moves from an opening bracket to behind the one that closes it.
func (s *scanner) skipNested() (nesting int) {
	depth := 0
	for s.pos < len(s.buf) {
		switch s.buf[s.pos] {
		case '"':
			s.skipString()
			continue
		case '{', '[':
			depth++
			nesting = max(nesting, depth)
		case '}', ']':
			depth--
		}
		s.pos++
		if depth == 0 {
			break
		}
	}
	return nesting
}

// eachElement calls f with the elements of an array.
func eachElement(array []byte, f func(i int, element []byte) error) error {
	s := scanner{buf: array, pos: 1}
	for i := 0; ; i++ {
		if c := s.next(); c == ']' || c == 0 {
			return nil
		}
		element, _ := s.value()
		if err := f(i, element); err != nil {
			return err
		}
	}
}

// eachMember calls f with the members of an object; name is still quoted.
func eachMember(object []byte, f func(name, value []byte) error) error {
	s := scanner{buf: object, pos: 1}
	for {
		if c := s.next(); c == '}' || c == 0 {
			return nil
		}
		name, _ := s.value()
		value, _ := s.value()
		if err := f(name, value); err != nil {
			return err
		}
	}
}

// badEscape returns the first escape in valid JSON that jsonb cannot store:
// \u0000, or a surrogate without its other half. Empty means there is none.
func badEscape(text []byte) string {
	for i := 0; ; {
		n := bytes.IndexByte(text[i:], '\\')
		if n < 0 {
			return ""
		}
		i += n
		r, ok := unicodeEscape(text[i:])
		switch {
		case !ok:
			i += 2
		case r == 0:
			return fmt.Sprintf(`\u%s at byte %d`, text[i+2:i+6], i)
		case !utf16.IsSurrogate(r):
			i += 6
		default:
			low, _ := unicodeEscape(text[i+6:])
			if utf16.DecodeRune(r, low) == '\uFFFD' {
				return fmt.Sprintf(`\u%s (half of a surrogate pair) at byte %d`, text[i+2:i+6], i)
			}
			i += 12
		}
	}
}

// unicodeEscape reads the escape (\u and four digits) that text begins with, if
// it does.
func unicodeEscape(text []byte) (r rune, ok bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}
