package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/outboxd/outboxd/publisher"
)

// ParseHeaders appends the headers that text, a JSON object, holds to dst, in
// their order; their names and values are copied into arena. An error leaves
// dst as it was.
//
// A string is its text. A number, true and false are their JSON text. An
// object or an array is its JSON text without the white space between its
// tokens. A null is no header. Names may repeat. No text at all (SQL NULL) and
// the JSON null are no headers; everything else that is not an object is an
// error.
//
// It accepts what encoding/json accepts and reads it the same way, except that
// bytes that are not UTF-8 are kept.
func ParseHeaders(text []byte, dst []publisher.Header, arena *Arena) ([]publisher.Header, error) {
	if text == nil {
		return dst, nil
	}
	p := headerParser{text: text, arena: arena}
	headers, err := p.headers(dst)
	if err != nil {
		return dst, err
	}
	return headers, nil
}

// headerParser reads one JSON object. Its methods skip the white space before
// what they read.
type headerParser struct {
	text  []byte
	at    int
	arena *Arena
}

func (p *headerParser) headers(dst []publisher.Header) ([]publisher.Header, error) {
	if !p.take('{') {
		if string(p.scalar()) == "null" {
			return dst, p.end()
		}
		return nil, fmt.Errorf("want a JSON object, as in {\"name\": \"value\"}")
	}
	if p.take('}') {
		return dst, p.end()
	}
	for {
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if !p.take(':') {
			return nil, p.unexpected("':' after a name")
		}
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		if value != nil {
			dst = append(dst, publisher.Header{Name: textOf(name), Value: value})
		}
		switch {
		case p.take(','):
		case p.take('}'):
			return dst, p.end()
		default:
			return nil, p.unexpected("',' or '}' after a value")
		}
	}
}

// value returns the text of one value, nil for null.
func (p *headerParser) value() ([]byte, error) {
	p.space()
	if p.at == len(p.text) {
		return nil, p.unexpected("a value")
	}
	switch p.text[p.at] {
	case '"':
		return p.string()
	case '{', '[':
		return p.nested()
	}
	at := p.at
	scalar := p.scalar()
	if !json.Valid(scalar) {
		p.at = at
		return nil, p.unexpected("a value")
	}
	if string(scalar) == "null" {
		return nil, nil
	}
	return p.arena.clone(scalar), nil
}

// scalar takes everything up to the next delimiter.
func (p *headerParser) scalar() []byte {
	p.space()
	n := bytes.IndexAny(p.text[p.at:], ",]}{[\": \t\r\n")
	if n < 0 {
		n = len(p.text) - p.at
	}
	s := p.text[p.at : p.at+n]
	p.at += n
	return s
}

// nested takes an object or an array. Its end is found by counting brackets
// outside of strings; what is between them is encoding/json's to judge.
func (p *headerParser) nested() ([]byte, error) {
	start, depth := p.at, 0
	for {
		switch p.text[p.at] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			if _, _, err := p.rawString(); err != nil {
				return nil, err
			}
			p.at-- // the closing quote: the step below passes it
		}
		p.at++
		if depth == 0 {
			break
		}
		if p.at >= len(p.text) {
			return nil, p.unexpected("the end of a nested value")
		}
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, p.text[start:p.at]); err != nil {
		return nil, fmt.Errorf("nested value at position %d: %w", start+1, err)
	}
	return p.arena.clone(compact.Bytes()), nil
}

// string takes a string and returns its text.
func (p *headerParser) string() ([]byte, error) {
	p.space()
	if p.at == len(p.text) || p.text[p.at] != '"' {
		return nil, p.unexpected("a string")
	}
	raw, escaped, err := p.rawString()
	if err != nil {
		return nil, err
	}
	if !escaped {
		return p.arena.clone(raw), nil
	}
	// An escape is never shorter than what it stands for.
	return appendUnescaped(p.arena.alloc(len(raw)), raw), nil
}

// rawString takes a string and returns what is between its quotes, and whether
// that holds an escape.
func (p *headerParser) rawString() (raw []byte, escaped bool, err error) {
	start := p.at + 1
	for i := start; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '"':
			p.at = i + 1
			return p.text[start:i], escaped, nil
		case c == '\\':
			n := escapeLen(p.text[i:])
			if n == 0 {
				p.at = i
				return nil, false, p.unexpected("an escape")
			}
			escaped = true
			i += n - 1
		case c < 0x20:
			p.at = i
			return nil, false, p.unexpected("no control character in a string")
		}
	}
	p.at = len(p.text)
	return nil, false, p.unexpected("the end of a string")
}

// escapeLen is the length of the escape that b begins with, 0 if it is none.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if codeUnit(b) >= 0 {
			return 6
		}
	}
	return 0
}

// codeUnit is the UTF-16 code unit of the escape (\u and four digits) that b
// begins with, -1 if it does not.
func codeUnit(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return r
}

// appendUnescaped appends the text of raw, whose escapes rawString has checked.
// Half a surrogate pair becomes U+FFFD, as in encoding/json.
func appendUnescaped(dst, raw []byte) []byte {
	for len(raw) > 0 {
		if raw[0] != '\\' {
			dst = append(dst, raw[0])
			raw = raw[1:]
			continue
		}
		if raw[1] != 'u' {
			dst = append(dst, unescapeByte(raw[1]))
			raw = raw[2:]
			continue
		}
		r := codeUnit(raw)
		raw = raw[6:]
		if utf16.IsSurrogate(r) {
			pair := utf16.DecodeRune(r, codeUnit(raw))
			if pair != utf8.RuneError {
				raw = raw[6:]
			}
			r = pair
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

func unescapeByte(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}

// take takes c if it is next.
func (p *headerParser) take(c byte) bool {
	p.space()
	if p.at == len(p.text) || p.text[p.at] != c {
		return false
	}
	p.at++
	return true
}

func (p *headerParser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

func (p *headerParser) end() error {
	p.space()
	if p.at < len(p.text) {
		return p.unexpected("nothing after the object")
	}
	return nil
}

func (p *headerParser) unexpected(want string) error {
	if p.at >= len(p.text) {
		return fmt.Errorf("want %s, found the end of the text", want)
	}
	r, _ := utf8.DecodeRune(p.text[p.at:])
	return fmt.Errorf("want %s at position %d, found %q", want, p.at+1, r)
}
