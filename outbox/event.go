package outbox

// Event is a fact that a service tells others: something that happened to one
// aggregate (an order, a customer) and is true once the transaction commits.
type Event struct {
	// ID is the event's identity for consumers. Zero, the usual case, gets a
	// NewID; Write and Emit leave the Event untouched and return the ids.
	ID ID
	// AggregateType is the kind of thing the event is about, such as "order".
	// By default it names the topic. Required, at most MaxName bytes.
	AggregateType string
	// AggregateID is the one thing the event is about. It is the record's key:
	// events of one aggregate are published in the order of their commits.
	// Required, at most MaxName bytes.
	AggregateID string
	// Type is what happened, such as "order.placed". Required, at most MaxName
	// bytes.
	Type string
	// Payload is the event's content. A []byte or json.RawMessage is taken byte
	// for byte; any other value goes through encoding/json, without escaping
	// of <, > and &. Nil, also a nil []byte or json.RawMessage, is a NULL
	// payload: a tombstone in Kafka, an empty body in RabbitMQ. A nil pointer
	// is what it is for encoding/json, the JSON text null.
	Payload any
	// Headers travel beside the payload, as headers of the record. A name must
	// not be empty, hold control characters, or begin with a prefix that the
	// relay's own headers have: ce_, cloudEvents_, cloudEvents:, outboxd-
	// (in any case).
	Headers map[string]string
}

// Header is one header of an event as it was read back.
type Header struct {
	Name, Value string
}

const (
	// MaxName is how long an aggregate type, an aggregate id and a type may be,
	// in bytes: what varchar(255), a routing key and a topic name can hold.
	MaxName = 255
	// DefaultMaxPayload is how many bytes a payload may have where Table does
	// not say otherwise: what a Kafka broker takes by default, about.
	DefaultMaxPayload = 1 << 20
)
