package outbox

import (
	"encoding/hex"
	"strings"
)

// arrayText builds an array in PostgreSQL's text form ("{…}"), which every
// driver can send as a string, whatever arrays it knows.
type arrayText struct {
	b strings.Builder
}

// add appends an element. Every element is quoted: then only the quote and the
// backslash mean anything, and the bytes of the rest stay as they are.
func (a *arrayText) add(element string) {
	a.separate()
	a.b.Grow(len(element) + 2)
	a.b.WriteByte('"')
	for {
		i := strings.IndexAny(element, `"\`)
		if i < 0 {
			break
		}
		a.b.WriteString(element[:i])
		a.b.WriteByte('\\')
		a.b.WriteByte(element[i])
		element = element[i+1:]
	}
	a.b.WriteString(element)
	a.b.WriteByte('"')
}

func (a *arrayText) addNull() {
	a.separate()
	a.b.WriteString("NULL")
}

func (a *arrayText) separate() {
	if a.b.Len() == 0 {
		a.b.WriteByte('{')
	} else {
		a.b.WriteByte(',')
	}
}

// String returns the array.
func (a *arrayText) String() string {
	if a.b.Len() == 0 {
		return "{}"
	}
	return a.b.String() + "}"
}

// payloadText returns a payload as the text form of its column's type.
func payloadText(t PayloadType, payload []byte) string {
	if t == Bytea {
		return `\x` + hex.EncodeToString(payload)
	}
	return string(payload)
}
