package record

import (
	"unicode/utf16"
	"unicode/utf8"
)

// The JSON of Kafka Connect's JsonConverter is written by Jackson, whose
// strings differ from those of encoding/json: characters outside the Basic
// Multilingual Plane become two \u escapes, hexadecimal digits are upper case,
// and '<', '>', '&', U+2028 and U+2029 stay as they are. The bytes of a key
// decide its partition, so the difference matters.

const upperHex = "0123456789ABCDEF"

// shortEscapes are the letters of the control characters that have one.
var shortEscapes = [0x20]byte{'\b': 'b', '\t': 't', '\n': 'n', '\f': 'f', '\r': 'r'}

// jacksonLen is the length of what appendJackson appends.
func jacksonLen(text []byte) int {
	if text == nil {
		return len("null")
	}
	n := len(`""`)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(text[i:])
			i += size - 1
			if r > 0xFFFF {
				n += len(`\uD800\uDC00`)
			} else {
				n += utf8.RuneLen(r)
			}
		case c == '"', c == '\\':
			n += len(`\"`)
		case c >= 0x20:
			n++
		case shortEscapes[c] != 0:
			n += len(`\n`)
		default:
			n += len(`\u0000`)
		}
	}
	return n
}

// appendJackson appends text as a JSON string, nil as null. A byte that is not
// UTF-8 becomes U+FFFD, as it does where Java decodes it.
func appendJackson(dst, text []byte) []byte {
	if text == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(text[i:])
			i += size - 1
			if r > 0xFFFF {
				high, low := utf16.EncodeRune(r)
				dst = appendUnicodeEscape(appendUnicodeEscape(dst, high), low)
			} else {
				dst = utf8.AppendRune(dst, r)
			}
		case c == '"', c == '\\':
			dst = append(dst, '\\', c)
		case c >= 0x20:
			dst = append(dst, c)
		case shortEscapes[c] != 0:
			dst = append(dst, '\\', shortEscapes[c])
		default:
			dst = appendUnicodeEscape(dst, rune(c))
		}
	}
	return append(dst, '"')
}

func appendUnicodeEscape(dst []byte, unit rune) []byte {
	return append(dst, '\\', 'u',
		upperHex[unit>>12&0xF], upperHex[unit>>8&0xF], upperHex[unit>>4&0xF], upperHex[unit&0xF])
}
