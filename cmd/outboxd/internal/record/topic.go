package record

import (
	"fmt"
	"unicode/utf8"
)

const (
	// maxTopic is the longest name of a Kafka topic, in bytes.
	maxTopic = 249
	// maxRoutingKey is the longest routing key of AMQP 0-9-1, in bytes.
	maxRoutingKey = 255
)

// topicProblem says why b cannot be a topic of the broker, or a routing key;
// "" when it can. An event's content ends up in b, so this is what keeps it
// from naming anything but a topic.
func (b Broker) topicProblem(name []byte) string {
	if len(name) == 0 {
		return "it is empty"
	}
	if b == RabbitMQ {
		return routingKeyProblem(name)
	}
	if p := kafkaCharacterProblem(name); p != "" {
		return p
	}
	if len(name) > maxTopic {
		return fmt.Sprintf("it has %d bytes, Kafka allows %d", len(name), maxTopic)
	}
	if string(name) == "." || string(name) == ".." {
		return "Kafka reserves this name"
	}
	return ""
}

func routingKeyProblem(key []byte) string {
	if len(key) > maxRoutingKey {
		return fmt.Sprintf("it has %d bytes, AMQP allows %d", len(key), maxRoutingKey)
	}
	if !utf8.Valid(key) {
		return "it is not valid UTF-8"
	}
	return ""
}

func kafkaCharacterProblem(name []byte) string {
	for i, c := range name {
		if !kafkaTopicByte(c) {
			r, _ := utf8.DecodeRune(name[i:])
			return fmt.Sprintf("character %q at position %d is not one of a-z A-Z 0-9 . _ -", r, i+1)
		}
	}
	return ""
}

func kafkaTopicByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

// templateProblem says why no expansion of t can be a topic: a literal that
// is illegal stays so whatever the event holds.
func (b Broker) templateProblem(t *template) string {
	literals := 0
	fixed := true
	for i := range t.parts {
		p := &t.parts[i]
		if p.place != nil {
			fixed = false
			continue
		}
		literals += len(p.literal)
		if b == Kafka {
			if problem := kafkaCharacterProblem([]byte(p.literal)); problem != "" {
				return fmt.Sprintf("%q: %s", p.literal, problem)
			}
		}
	}
	limit := maxTopic
	if b == RabbitMQ {
		limit = maxRoutingKey
	}
	switch {
	case literals > limit:
		return fmt.Sprintf("its fixed text has %d bytes, allowed are %d", literals, limit)
	case fixed:
		return b.topicProblem([]byte(t.source))
	default:
		return ""
	}
}
