package relay

import (
	"encoding/json"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/outbox"
	"github.com/outboxd/outboxd/publisher"
)

// emitted decodes the events of a logical message. ours is false when the
// prefix is somebody else's. The error is a *publisher.PoisonError.
func emitted(m *cdc.Message) (message outbox.Message, ours bool, err error) {
	if string(m.Prefix) != outbox.MessagePrefix {
		return outbox.Message{}, false, nil
	}
	message, err = outbox.DecodeMessage(m.Content)
	if err != nil {
		err = &publisher.PoisonError{
			Reason: record.ReasonBadRecord,
			Detail: "decode a logical message with the prefix " + outbox.MessagePrefix,
			Err:    err,
		}
	}
	return message, true, err
}

// fromEmitted reads an emitted event into ev.
func fromEmitted(e *outbox.Emitted, m *outbox.Message, ev *record.Event) error {
	ev.ID = []byte(e.ID.String())
	ev.AggregateType = []byte(e.AggregateType)
	ev.AggregateID = nil
	if !e.Unkeyed {
		ev.AggregateID = []byte(e.AggregateID)
	}
	ev.Type = []byte(e.Type)
	ev.Payload = e.Payload
	ev.PayloadKind = record.JSON
	if e.Payload != nil && !e.JSON {
		ev.PayloadKind = record.Binary
	}
	ev.Time = m.Time
	var err error
	ev.Headers, err = headerObject(e.Headers)
	return err
}

// headerObject writes headers as the JSON object that a headers column would
// hold; names may repeat in it as they do in the message.
func headerObject(headers []outbox.Header) ([]byte, error) {
	if len(headers) == 0 {
		return nil, nil
	}
	b := []byte{'{'}
	for i, h := range headers {
		if i > 0 {
			b = append(b, ',')
		}
		for j, text := range []string{h.Name, h.Value} {
			if j > 0 {
				b = append(b, ':')
			}
			quoted, err := json.Marshal(text)
			if err != nil {
				return nil, &publisher.PoisonError{Reason: record.ReasonBadHeader, Detail: "encode header " + h.Name, Err: err}
			}
			b = append(b, quoted...)
		}
	}
	return append(b, '}'), nil
}
