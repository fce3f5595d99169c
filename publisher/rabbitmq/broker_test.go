//go:build !embedded

package rabbitmq_test

import (
	"context"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

func TestMain(m *testing.M) { devtest.Main(m) }

const (
	routedKey = "shop.order.placed" // bound to the queue of a corner
	fullKey   = "shop.order.full"   // bound to a queue that refuses everything
	strayKey  = "shop.order.stray"  // bound to nothing
)

// corner is an exchange and a queue of a test's own.
type corner struct {
	t        testing.TB
	url      string
	exchange string
	queue    string
	conn     *amqp.Connection
	ch       *amqp.Channel
	line     publishertest.Line
	read     []publisher.Record
}

// newCorner declares an exchange with a queue of the type for routedKey and a
// full one for fullKey, at the broker of url.
func newCorner(t testing.TB, url, queueType string) *corner {
	t.Helper()
	c := &corner{t: t, url: url, exchange: devtest.Name(t), queue: devtest.Name(t)}
	c.connect()
	full := c.queue + "_full"
	t.Cleanup(func() {
		if c.ch.IsClosed() {
			c.connect()
		}
		_, err1 := c.ch.QueueDelete(c.queue, false, false, false)
		_, err2 := c.ch.QueueDelete(full, false, false, false)
		err3 := c.ch.ExchangeDelete(c.exchange, false, false)
		c.must(err1, err2, err3, c.conn.Close())
	})
	c.must(c.ch.ExchangeDeclare(c.exchange, "topic", true, false, false, false, nil))
	c.declare(c.queue, routedKey, amqp.Table{"x-queue-type": queueType})
	c.declare(full, fullKey, amqp.Table{"x-queue-type": "classic", "x-max-length": int32(0), "x-overflow": "reject-publish"})
	return c
}

func (c *corner) must(errs ...error) {
	c.t.Helper()
	for _, err := range errs {
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *corner) connect() {
	c.t.Helper()
	var err error
	c.conn, err = amqp.Dial(c.url)
	c.must(err)
	c.ch, err = c.conn.Channel()
	c.must(err)
}

func (c *corner) declare(queue, key string, args amqp.Table) {
	c.t.Helper()
	_, err := c.ch.QueueDeclare(queue, true, false, false, false, args)
	c.must(err, c.ch.QueueBind(queue, key, c.exchange, false, nil))
}

// config is for a publisher to the corner's exchange, over its line.
func (c *corner) config() rabbitmq.Config {
	c.t.Helper()
	config, err := rabbitmq.ParseURL(c.url)
	c.must(err)
	config.Exchange = c.exchange
	config.Dial = c.line.Dial
	return config
}

// messages takes all messages out of a queue. basic.get would cost a write to
// disk for each.
func (c *corner) messages(queue string) []amqp.Delivery {
	c.t.Helper()
	var ms []amqp.Delivery
	for {
		q, err := c.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		c.must(err)
		if q.Messages == 0 {
			return ms
		}
		deliveries, err := c.ch.Consume(queue, "reader", true, false, false, false, nil)
		c.must(err)
		for range q.Messages {
			ms = append(ms, <-deliveries)
		}
		c.must(c.ch.Cancel("reader", false))
		for m := range deliveries {
			ms = append(ms, m)
		}
	}
}

// records returns everything that has arrived in the corner's queue so far.
func (c *corner) records() []publisher.Record {
	c.t.Helper()
	for _, m := range c.messages(c.queue) {
		r := publisher.Record{
			Topic: m.RoutingKey, Value: m.Body, ID: m.MessageId, Type: m.Type, ContentType: m.ContentType, Time: m.Timestamp,
		}
		for name, value := range m.Headers {
			// A quorum queue adds x-delivery-count, a number.
			if text, ok := value.(string); ok {
				r.Headers = append(r.Headers, publisher.Header{Name: name, Value: []byte(text)})
			}
		}
		c.read = append(c.read, r)
	}
	return c.read
}

// open opens a publisher that the test closes at its end.
func (c *corner) open(config rabbitmq.Config, done publisher.Done) *rabbitmq.Publisher {
	c.t.Helper()
	p, err := rabbitmq.Open(c.t.Context(), config, done, nil)
	c.must(err)
	c.t.Cleanup(func() { shut(c.t, p, time.Second) })
	return p
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name, queueType, refusedKey string
		ordering                    rabbitmq.Ordering
	}{
		{"strict, quorum, returned", "quorum", strayKey, rabbitmq.Strict},
		{"strict, classic, nacked", "classic", fullKey, rabbitmq.Strict},
		{"pipelined, quorum, nacked", "quorum", fullKey, rabbitmq.Pipelined},
		{"pipelined, classic, returned", "classic", strayKey, rabbitmq.Pipelined},
	} {
		t.Run(c.name, func(t *testing.T) {
			publishertest.Run(t, func(t testing.TB) *publishertest.Target {
				corner := newCorner(t, devtest.RabbitMQ(t), c.queueType)
				return &publishertest.Target{
					Topic: routedKey,
					Open: func(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
						config := corner.config()
						config.Ordering = c.ordering
						return rabbitmq.Open(context.Background(), config, done, guard)
					},
					Read:        corner.records,
					Refuse:      func(r *publisher.Record) { r.Topic = c.refusedKey },
					Doom:        func(r *publisher.Record) { r.Type = strings.Repeat("x", 256) },
					Stall:       corner.line.Stall,
					Cut:         corner.line.Cut,
					NoKey:       true,
					NoNil:       true,
					HeaderTable: true,
					Pipelined:   c.ordering == rabbitmq.Pipelined,
				}
			})
		})
	}
}

// TestOpenRefused: what is wrong with the configuration, and what with the
// broker's state.
func TestOpenRefused(t *testing.T) {
	url := devtest.RabbitMQ(t)
	base, err := rabbitmq.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*rabbitmq.Config)
		class  string
		text   string
	}{
		{"missing exchange", func(c *rabbitmq.Config) { c.Exchange = "nowhere" }, "missing_exchange", `missing_exchange "nowhere"`},
		{"default exchange", func(c *rabbitmq.Config) { c.Exchange = "" }, "", ""},
		{"missing vhost", func(c *rabbitmq.Config) { c.VHost = "nowhere" }, "missing_vhost", "nowhere"},
		{"wrong password", func(c *rabbitmq.Config) { c.Exchange = ""; c.Password = "secret-but-wrong" }, "auth", "user or password refused"},
		{"nobody listens", func(c *rabbitmq.Config) { c.Hosts = []string{"127.0.0.1:1"} }, "other", "127.0.0.1:1"},
		{"second host answers", func(c *rabbitmq.Config) { c.Exchange = ""; c.Hosts = append([]string{"127.0.0.1:1"}, c.Hosts...) }, "", ""},
		{"bad option", func(c *rabbitmq.Config) { c.Channels = -1 }, "config", "channels is -1"},
		{"TLS to a plain port", func(c *rabbitmq.Config) { c.TLS = true }, "other", "tls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := base
			c.change(&config)
			p, err := rabbitmq.Open(t.Context(), config, nil, nil)
			if p != nil {
				defer shut(t, p, time.Second)
			}
			if got := classOf(err); got != c.class {
				t.Errorf("open: %v, class %q, want %q", err, got, c.class)
			}
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("open: %q does not contain %q", err, c.text)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}
