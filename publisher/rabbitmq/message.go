package rabbitmq

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// appID is the application id of every message.
	appID = "outboxd"
	// maxShortString is the limit of AMQP's short strings, in bytes.
	maxShortString = 255
	// headerFrameFixed bounds what a content header frame has beside strings
	// and the table: frame, class, weight, size, flags, length bytes, delivery
	// mode, timestamp, length of the table.
	headerFrameFixed = 64
)

// limits is what one connection can carry.
type limits struct {
	messageSize int // bytes of a message body
	frameSize   int // bytes of a frame; 0 is no limit
}

// message turns r into what the client library publishes. Its error is a
// *publisher.PoisonError: what the library or the broker would refuse is found
// here, because they end the channel or the connection over it.
func message(r *publisher.Record, mode uint8, limit limits) (amqp.Publishing, error) {
	if err := checkRecord(r, limit); err != nil {
		return amqp.Publishing{}, err
	}
	m := amqp.Publishing{
		MessageId:    r.ID,
		Type:         r.Type,
		ContentType:  r.ContentType,
		AppId:        appID,
		DeliveryMode: mode,
		Body:         r.Value,
		Headers:      headerTable(r.Headers),
	}
	if r.Time.Unix() > 0 {
		m.Timestamp = r.Time // unsigned seconds on the wire
	}
	return m, nil
}

func checkRecord(r *publisher.Record, limit limits) error {
	if n := len(r.Value); n > limit.messageSize {
		return &publisher.PoisonError{Reason: "too_large", Detail: fmt.Sprintf(
			"the value has %d bytes, max_message_size is %d (raise it at the broker and with the option of that name)", n, limit.messageSize)}
	}
	if n := len(r.Topic); n > maxShortString {
		return &publisher.PoisonError{Reason: "bad_topic", Detail: fmt.Sprintf("the routing key has %d bytes, AMQP allows %d", n, maxShortString)}
	}
	size := headerFrameFixed + len(appID)
	for _, p := range []struct{ name, value string }{
		{"message id", r.ID}, {"type", r.Type}, {"content type", r.ContentType},
	} {
		if n := len(p.value); n > maxShortString {
			return &publisher.PoisonError{Reason: "bad_record", Detail: fmt.Sprintf("the %s has %d bytes, AMQP allows %d", p.name, n, maxShortString)}
		}
		size += len(p.value)
	}
	for i := range r.Headers {
		if err := checkHeaderName(r.Headers[i].Name); err != nil {
			return err
		}
		// Length byte, type and length of the value; as much again for an array.
		size += len(r.Headers[i].Name) + len(r.Headers[i].Value) + 12
	}
	if limit.frameSize > 0 && size > limit.frameSize {
		return &publisher.PoisonError{Reason: "bad_header", Detail: fmt.Sprintf(
			"headers and properties have about %d bytes, they must fit into one frame of %d (frame_max)", size, limit.frameSize)}
	}
	return nil
}

func checkHeaderName(name string) error {
	switch {
	case len(name) > maxShortString:
		return &publisher.PoisonError{Reason: "bad_header", Detail: fmt.Sprintf("header %.40q… has a name of %d bytes, AMQP allows %d", name, len(name), maxShortString)}
	case name == "CC" || name == "BCC":
		// RabbitMQ takes them for lists of more routing keys and ends the
		// channel when they are anything else.
		return &publisher.PoisonError{Reason: "bad_header", Detail: fmt.Sprintf("header %q would add routing keys", name)}
	}
	return nil
}

// headerTable makes an AMQP table, in which names do not repeat: the values of
// a repeated name become one array, in their order. Values are long strings,
// which hold any bytes.
func headerTable(headers []publisher.Header) amqp.Table {
	if len(headers) == 0 {
		return nil
	}
	table := make(amqp.Table, len(headers))
	for i := range headers {
		name, value := headers[i].Name, string(headers[i].Value)
		switch earlier := table[name].(type) {
		case nil:
			table[name] = value
		case []any:
			table[name] = append(earlier, value)
		default:
			table[name] = []any{earlier, value}
		}
	}
	return table
}
