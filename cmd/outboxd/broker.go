package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/suggest"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/jsonl"
	"github.com/outboxd/outboxd/publisher/kafka"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// broker is what --broker and the flags beside it come to.
type broker struct {
	kind record.Broker
	// address tells one broker from another, without the password.
	address string
	// policy is what else decides which events reach it.
	policy string
	open   func(context.Context, *slog.Logger, publisher.Done, publisher.Guard) (publisher.Publisher, error)
	// stats is what the backend counts, over all sessions.
	stats func() metrics.Broker
}

// schemes are what --broker may begin with.
const schemes = "kafka://, kafka+tls://, amqp://, amqps://, jsonl:"

// Flags that only one kind of broker knows.
var (
	kafkaFlags    = []string{"topic", "create-topics", "topic-partitions", "topic-replication"}
	rabbitmqFlags = []string{"exchange", "routing-key", "ordering", "unroutable"}
)

// newBroker picks the backend by the URL's scheme.
func (o *runOptions) newBroker() (broker, error) {
	scheme, _, _ := strings.Cut(o.broker, ":")
	switch scheme {
	case "kafka", "kafka+tls":
		return o.kafka()
	case "amqp", "amqps":
		return o.rabbitmq()
	case "jsonl":
		return o.jsonl()
	case "":
		return broker{}, fmt.Errorf("--broker is missing; it begins with one of %s", schemes)
	}
	hint := ""
	if near := suggest.Nearest(scheme, []string{"kafka", "amqp", "amqps", "jsonl"}); near != "" {
		hint = fmt.Sprintf(", did you mean %s?", near)
	}
	// Only the scheme is shown: what is behind it may hold a password.
	return broker{}, fmt.Errorf("--broker begins with %q; it must be one of %s%s", scheme, schemes, hint)
}

// foreign names the flags that were given and are another broker's: they would
// be ignored, and somebody relies on them.
func (o *runOptions) foreign(scheme string, flags ...string) error {
	var problems []error
	for _, flag := range flags {
		if o.given(flag) {
			problems = append(problems, fmt.Errorf("--%s is not for a %s broker", flag, scheme))
		}
	}
	return errors.Join(problems...)
}

func (o *runOptions) kafka() (broker, error) {
	config, err := kafka.ParseURL(o.broker)
	if err != nil {
		return broker{}, fmt.Errorf("--broker: %w", err)
	}
	if o.given("create-topics") {
		config.CreateTopics = o.createTopics
	}
	if o.given("topic-partitions") {
		config.Partitions = o.topicPartitions
	}
	if o.given("topic-replication") {
		config.ReplicationFactor = o.topicReplication
	}
	if !config.CreateTopics && (o.topicPartitions != 0 || o.topicReplication != 0) {
		err = errors.New("--topic-partitions and --topic-replication need --create-topics")
	} else if err = config.Validate(); err != nil {
		err = fmt.Errorf("--broker: %w", err)
	}
	if err := errors.Join(err, o.foreign("kafka", rabbitmqFlags...)); err != nil {
		return broker{}, err
	}
	sessions := newTally(func(p *kafka.Publisher) metrics.Broker {
		return metrics.Broker{GrownTopics: int(p.Stats().Grown)}
	})
	return broker{
		kind:    record.Kafka,
		address: "kafka " + hosts(config.Brokers),
		open: func(ctx context.Context, log *slog.Logger, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			config := config
			config.Logger = log
			return opened(sessions.follow(kafka.Open(ctx, config, done, guard)))
		},
		stats: sessions.sum,
	}, nil
}

func (o *runOptions) rabbitmq() (broker, error) {
	config, err := rabbitmq.ParseURL(o.broker)
	if err != nil {
		return broker{}, fmt.Errorf("--broker: %w", err)
	}
	if o.given("exchange") {
		config.Exchange = o.exchange
	}
	if o.given("ordering") {
		config.Ordering = rabbitmq.Ordering(o.ordering)
	}
	if o.given("unroutable") {
		config.Unroutable = rabbitmq.Unroutable(o.unroutable)
	}
	var problem error
	if err := config.Validate(); err != nil {
		problem = fmt.Errorf("--broker: %w", err)
	}
	if err := errors.Join(problem, o.foreign("RabbitMQ", kafkaFlags...)); err != nil {
		return broker{}, err
	}
	sessions := newTally(func(p *rabbitmq.Publisher) metrics.Broker {
		s := p.Stats()
		return metrics.Broker{Discarded: s.Discarded, HotKeyWaits: s.HotKeyWaits, Blocked: !s.BlockedSince.IsZero()}
	})
	return broker{
		kind:    record.RabbitMQ,
		address: "amqp " + hosts(config.Hosts) + " " + cmp.Or(config.VHost, rabbitmq.DefaultVHost) + " " + config.Exchange,
		policy:  string(config.Unroutable),
		open: func(ctx context.Context, log *slog.Logger, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			config := config
			config.Logger = log
			return opened(sessions.follow(rabbitmq.Open(ctx, config, done, guard)))
		},
		stats: sessions.sum,
	}, nil
}

func (o *runOptions) jsonl() (broker, error) {
	config, err := jsonl.ParseURL(o.broker)
	if err != nil {
		return broker{}, fmt.Errorf("--broker: %w", err)
	}
	if err := o.foreign("jsonl", append(kafkaFlags[1:], rabbitmqFlags...)...); err != nil {
		return broker{}, err
	}
	return broker{
		kind:    record.Kafka,
		address: o.broker,
		open: func(ctx context.Context, _ *slog.Logger, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			return opened(jsonl.Open(ctx, config, done, guard))
		},
		stats: func() metrics.Broker { return metrics.Broker{} },
	}, nil
}

// opened keeps a nil pointer out of the interface.
func opened[P publisher.Publisher](p P, err error) (publisher.Publisher, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// hosts does not depend on the order in which the hosts were given.
func hosts(list []string) string {
	return strings.Join(slices.Sorted(slices.Values(list)), ",")
}
