package jsonl

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/outboxd/outboxd/publisher"
)

// encoder appends records as lines to a buffer.
type encoder struct {
	buf  bytes.Buffer
	text *json.Encoder // of strings, into buf
}

func newEncoder() *encoder {
	e := &encoder{}
	e.text = json.NewEncoder(&e.buf)
	e.text.SetEscapeHTML(false)
	return e
}

// check returns a *publisher.PoisonError for names that are not text.
func check(r *publisher.Record) error {
	if !utf8.ValidString(r.Topic) {
		return &publisher.PoisonError{Reason: "bad_topic", Detail: "topic is not UTF-8"}
	}
	for _, h := range r.Headers {
		if !utf8.ValidString(h.Name) {
			return &publisher.PoisonError{Reason: "bad_header", Detail: "header name is not UTF-8"}
		}
	}
	return nil
}

// add appends r. It has added nothing when it returns an error, which is check's.
func (e *encoder) add(r *publisher.Record) error {
	if err := check(r); err != nil {
		return err
	}
	e.buf.WriteString(`{"topic":`)
	e.string(r.Topic)
	if r.Key != nil {
		e.bytes("key", "key_base64", r.Key)
	}
	switch {
	case r.Value == nil:
	case embeddable(r.Value):
		e.buf.WriteString(`,"value":`)
		e.buf.Write(r.Value)
	default:
		e.bytes("text", "base64", r.Value)
	}
	e.headers(r.Headers)
	e.optional("id", r.ID)
	e.optional("type", r.Type)
	e.optional("content_type", r.ContentType)
	if !r.Time.IsZero() {
		e.optional("time", r.Time.UTC().Format(time.RFC3339Nano))
	}
	e.buf.WriteString("}\n")
	return nil
}

// embeddable says whether v can stand in a line as it is, and be cut out again
// byte for byte: valid JSON, on one line, nothing around it.
func embeddable(v []byte) bool {
	return !bytes.ContainsAny(v, "\n\r") && len(bytes.TrimSpace(v)) == len(v) && utf8.Valid(v) && json.Valid(v)
}

func (e *encoder) headers(headers []publisher.Header) {
	if len(headers) == 0 {
		return
	}
	e.buf.WriteString(`,"headers":[`)
	for i, h := range headers {
		if i > 0 {
			e.buf.WriteByte(',')
		}
		e.buf.WriteString(`{"name":`)
		e.string(h.Name)
		e.bytes("value", "base64", h.Value)
		e.buf.WriteByte('}')
	}
	e.buf.WriteByte(']')
}

// bytes writes v as a string named text, or in base64 under another name.
func (e *encoder) bytes(text, encoded string, v []byte) {
	if utf8.Valid(v) {
		e.buf.WriteString(`,"` + text + `":`)
		e.string(string(v))
		return
	}
	e.buf.WriteString(`,"` + encoded + `":"`)
	e.buf.Write(base64.StdEncoding.AppendEncode(e.buf.AvailableBuffer(), v))
	e.buf.WriteByte('"')
}

func (e *encoder) optional(name, v string) {
	if v != "" {
		e.buf.WriteString(`,"` + name + `":`)
		e.string(v)
	}
}

func (e *encoder) string(s string) {
	_ = e.text.Encode(s) // a string always encodes, a buffer always takes it
	e.buf.Truncate(e.buf.Len() - 1)
}
