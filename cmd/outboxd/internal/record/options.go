package record

import (
	"errors"
	"fmt"
	"net/url"
)

// Broker is the kind of broker that records are made for.
type Broker string

const (
	// Kafka: topics, headers with the prefix ce_. Also for jsonl, which is
	// there to see what Kafka would get.
	Kafka Broker = "kafka"
	// RabbitMQ: routing keys, headers with the prefix cloudEvents_.
	RabbitMQ Broker = "rabbitmq"
)

// Style is the form of records.
type Style string

const (
	// CloudEvents is CloudEvents 1.0 in binary mode.
	CloudEvents Style = "cloudevents"
	// DebeziumRouter is the form of Debezium's outbox event router.
	DebeziumRouter Style = "debezium"
)

// The templates that an empty Options.Topic stands for.
const (
	DefaultTopic      = "outbox.event.{aggregatetype}"
	DefaultRoutingKey = "{aggregatetype}.{type}"
)

// Options says how records are made. The zero value of what is not marked
// required is a documented default.
type Options struct {
	// Broker is Kafka unless set.
	Broker Broker
	// Style is CloudEvents unless set.
	Style Style
	// Pipeline names the source of events that Source does not name. Required
	// unless Source is set or the style is DebeziumRouter.
	Pipeline string
	// Source is the CloudEvents source, a URI reference. Empty:
	// /outboxd/PIPELINE, the same on every host.
	Source string
	// Topic is the template of the Kafka topic or the routing key, with the
	// placeholders {aggregatetype}, {aggregateid} and {type}. Empty:
	// DefaultTopic or DefaultRoutingKey.
	Topic string
	// ContentType is the media type of every payload. Empty: what the payload
	// column's type proves. An event's own content-type header goes before
	// both.
	ContentType string
	// AllowUnkeyed lets events without an aggregate id pass: their record has
	// no key and so no place in any order.
	AllowUnkeyed bool
	// Debezium is for the style DebeziumRouter only.
	Debezium Debezium
}

// New checks o and returns its Format. The error names everything that is
// wrong at once.
func New(o Options) (*Format, error) {
	o = o.withDefaults()
	f := &Format{broker: o.Broker, allowUnkeyed: o.AllowUnkeyed}
	var brokerErr, routeErr, styleErr, topicErr error
	if o.Broker != Kafka && o.Broker != RabbitMQ {
		brokerErr = fmt.Errorf("unknown broker %q; known: %s, %s", o.Broker, Kafka, RabbitMQ)
	}
	f.route, routeErr = newRoute(o.Debezium)
	f.style, styleErr = newStyle(o)
	// Without its route a template's placeholders cannot be judged.
	if routeErr == nil {
		f.topic, topicErr = newTopic(o, f.route)
	}
	if err := errors.Join(brokerErr, routeErr, styleErr, topicErr); err != nil {
		return nil, err
	}
	return f, nil
}

func newStyle(o Options) (style, error) {
	switch o.Style {
	case CloudEvents:
		return newCloudEvents(o)
	case DebeziumRouter:
		return newDebezium(o)
	default:
		return nil, fmt.Errorf("unknown style %q; known: %s, %s", o.Style, CloudEvents, DebeziumRouter)
	}
}

func newTopic(o Options, r *route) (*template, error) {
	of := "topic"
	if o.Broker == RabbitMQ {
		of = "routing key"
	}
	t, err := parseTemplate(o.Topic, r.placeholders())
	if err != nil {
		return nil, fmt.Errorf("%s %w", of, err)
	}
	if p := o.Broker.templateProblem(t); p != "" {
		return nil, fmt.Errorf("%s template %q: %s", of, o.Topic, p)
	}
	return t, nil
}

func (o Options) withDefaults() Options {
	if o.Broker == "" {
		o.Broker = Kafka
	}
	if o.Style == "" {
		o.Style = CloudEvents
	}
	if o.Topic == "" && o.Broker == RabbitMQ {
		o.Topic = DefaultRoutingKey
	}
	if o.Topic == "" {
		o.Topic = DefaultTopic
	}
	return o
}

// source is the CloudEvents source.
func (o Options) source() (string, error) {
	if o.Source == "" {
		if o.Pipeline == "" {
			return "", errors.New("neither a pipeline nor a source is given; CloudEvents need a source")
		}
		return "/outboxd/" + url.PathEscape(o.Pipeline), nil
	}
	if _, err := url.Parse(o.Source); err != nil {
		return "", fmt.Errorf("source %q is not a URI reference: %w", o.Source, err)
	}
	return o.Source, nil
}
