package outbox

import (
	"encoding/base64"
	"encoding/json"
	"time"
)

// MessagePrefix is the prefix of the logical messages that carry events. The
// relay takes no notice of messages with another one.
const MessagePrefix = "outboxd"

// MaxMessage is where Emit begins another message, in bytes. A single event
// above it has a message to itself.
const MaxMessage = 1 << 20

// messageVersion is the version of the format, which the package comment
// describes.
const messageVersion = "1"

// messages packs rows into as few messages as MaxMessage allows, in order.
func messages(rows []row, now time.Time) []string {
	var done []string
	var message []byte
	for i := range rows {
		event := appendEvent(nil, &rows[i])
		if message != nil && len(message)+len(",")+len(event)+len("]}") > MaxMessage {
			done = append(done, string(message)+"]}")
			message = nil
		}
		if message == nil {
			message = appendMessageHead(nil, now)
		} else {
			message = append(message, ',')
		}
		message = append(message, event...)
	}
	return append(done, string(message)+"]}")
}

func appendMessageHead(dst []byte, now time.Time) []byte {
	dst = append(dst, `{"v":`+messageVersion+`,"time":"`...)
	dst = now.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
	return append(dst, `","events":[`...)
}

func appendEvent(dst []byte, r *row) []byte {
	dst = append(dst, `{"id":"`...)
	dst = r.id.append(dst)
	dst = append(dst, `","aggregatetype":`...)
	dst = appendString(dst, r.aggregateType)
	dst = append(dst, `,"aggregateid":`...)
	dst = appendString(dst, r.aggregateID)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, r.typ)
	switch {
	case r.null:
	case embeddable(r.payload):
		dst = append(dst, `,"payload":`...)
		dst = append(dst, r.payload...)
	default:
		dst = append(dst, `,"payload_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, r.payload)
		dst = append(dst, '"')
	}
	if len(r.headers) > 0 {
		dst = append(dst, `,"headers":`...)
		dst = appendHeaders(dst, r.headers)
	}
	return append(dst, '}')
}

// embeddable reports whether a reader of the message gets back exactly payload
// when it stands there as it is.
func embeddable(payload []byte) bool {
	if !isJSON(payload) {
		return false
	}
	s := scanner{buf: payload}
	value, nesting := s.value()
	return len(value) == len(payload) && nesting <= maxNesting && string(value) != "null"
}

// appendHeaders appends headers as a JSON object, in their order.
func appendHeaders(dst []byte, headers []Header) []byte {
	dst = append(dst, '{')
	for i, h := range headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, h.Name)
		dst = append(dst, ':')
		dst = appendString(dst, h.Value)
	}
	return append(dst, '}')
}

func appendString(dst []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // never fails for a string
	return append(dst, quoted...)
}
