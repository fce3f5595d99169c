package outbox_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/outboxd/outboxd/outbox"
)

// FuzzEmitAndDecode checks that what Emit accepts comes back as it was.
func FuzzEmitAndDecode(f *testing.F) {
	for _, payload := range awkwardPayloads {
		if len(payload) > 1000 {
			continue // slow to mutate; TestEmitRoundTripsWithEveryDriver has them
		}
		f.Add("order", "42", "order.placed", []byte(payload), "name", "value")
	}
	for _, s := range awkward {
		f.Add(s, s, s, []byte(s), s, s)
	}
	f.Fuzz(func(t *testing.T, aggregateType, aggregateID, typ string, payload []byte, name, value string) {
		e := outbox.Event{
			ID:            outbox.NewID(),
			AggregateType: aggregateType, AggregateID: aggregateID, Type: typ, Payload: payload,
			Headers: map[string]string{name: value},
		}
		if payload == nil {
			e.Payload = nil
		}
		tx := &recorder{}
		_, err := outbox.Emit(t.Context(), tx, e, order(nil), order([]byte("1")))
		if invalid := (*outbox.ValidationError)(nil); errors.As(err, &invalid) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := tx.args[0][1].(string)
		if !utf8.ValidString(content) || bytes.IndexByte([]byte(content), 0) >= 0 {
			t.Fatalf("the server would refuse %q", content)
		}
		m, err := outbox.DecodeMessage([]byte(content))
		if err != nil {
			t.Fatalf("%v in %q", err, content)
		}
		if len(m.Events) != 3 {
			t.Fatalf("%d events in %q", len(m.Events), content)
		}
		checkEmitted(t, m.Events[0], e.ID, e)
		if m.Events[1].Payload != nil || string(m.Events[2].Payload) != "1" {
			t.Errorf("later events are %+v", m.Events[1:])
		}
	})
}

// naiveEvent is an event of a message as encoding/json reads it.
type naiveEvent struct {
	ID            string                     `json:"id"`
	AggregateType string                     `json:"aggregatetype"`
	AggregateID   json.RawMessage            `json:"aggregateid"`
	Type          string                     `json:"type"`
	Payload       json.RawMessage            `json:"payload"`
	Base64        *string                    `json:"payload_base64"`
	Headers       map[string]json.RawMessage `json:"headers"`
}

// FuzzDecodeMessage checks DecodeMessage against encoding/json wherever it
// finds nothing wrong, and that it survives the rest.
func FuzzDecodeMessage(f *testing.F) {
	for _, content := range []string{
		plainE, `{"events":[` + plainE + `,` + plainE + `]}`, `{"v":1,"time":"2026-11-24T20:15:00Z","events":[]}`,
		`{` + names + `,"payload":{"a": [1,"]"]},"headers":{"a":"b","c":1}}`, `{` + names + `,"payload_base64":"AP8="}`,
		`{"\u0069d":1}`, `{"events":[null]}`, "\ufeff{}", `{,}`, `{"a"}`, `[}`, `{"payload":"\`,
	} {
		f.Add([]byte(content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		m, err := outbox.DecodeMessage(content)
		if err != nil {
			if !errors.Is(err, outbox.ErrMalformed) {
				t.Fatalf("error %v does not wrap ErrMalformed", err)
			}
			return
		}
		var naive struct {
			Events []naiveEvent `json:"events"`
			naiveEvent
		}
		if err := json.Unmarshal(content, &naive); err != nil {
			t.Fatalf("accepted, but encoding/json says %v", err)
		}
		if naive.Events == nil {
			naive.Events = []naiveEvent{naive.naiveEvent}
		}
		if len(m.Events) != len(naive.Events) {
			t.Fatalf("%d events, encoding/json finds %d", len(m.Events), len(naive.Events))
		}
		for i, e := range m.Events {
			compareNaive(t, e, naive.Events[i])
		}
	})
}

func compareNaive(t *testing.T, e outbox.Emitted, n naiveEvent) {
	t.Helper()
	if id, err := outbox.ParseID(n.ID); err != nil || id != e.ID || e.AggregateType != n.AggregateType || e.Type != n.Type {
		t.Errorf("%+v differs from %+v", e, n)
	}
	payload := []byte(n.Payload)
	if bytes.Equal(payload, []byte("null")) {
		payload = nil
	}
	if n.Base64 != nil {
		payload, _ = base64.StdEncoding.DecodeString(*n.Base64)
	}
	if !bytes.Equal(e.Payload, payload) || (e.Payload == nil) != (payload == nil) {
		t.Errorf("payload %q, encoding/json has %q", e.Payload, payload)
	}
	if e.JSON != (json.Valid(payload) && utf8.Valid(payload)) {
		t.Errorf("payload %q: JSON is %v", payload, e.JSON)
	}
	if e.Unkeyed != (n.AggregateID == nil || string(n.AggregateID) == "null") || !e.Unkeyed && e.AggregateID != scalar(n.AggregateID) {
		t.Errorf("aggregate id %q, encoding/json has %s", e.AggregateID, n.AggregateID)
	}
	last := make(map[string]string)
	for _, h := range e.Headers {
		last[h.Name] = h.Value
	}
	for name, raw := range n.Headers {
		if string(raw) != "null" && last[name] != scalar(raw) {
			t.Errorf("header %q is %q, encoding/json has %s", name, last[name], raw)
		}
		delete(last, name)
	}
	if len(last) > 0 {
		t.Errorf("headers %q are unknown to encoding/json", last)
	}
}

func scalar(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}
