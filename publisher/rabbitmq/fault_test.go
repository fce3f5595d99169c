//go:build !embedded

package rabbitmq_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// TestOrderOfManyKeys: 20,000 events, 1,000 keys.
func TestOrderOfManyKeys(t *testing.T) {
	for _, queueType := range []string{"quorum", "classic"} {
		t.Run(queueType, func(t *testing.T) {
			c := newCorner(t, devtest.RabbitMQ(t), queueType)
			r := newRun(t, c.config(), 20_000, 1_000)
			r.all()
			if r.sessions != 1 {
				t.Errorf("%d sessions, failures %v", r.sessions, r.classes)
			}
			r.judge(c.records())
		})
	}
}

func TestProperties(t *testing.T) {
	c := newCorner(t, devtest.RabbitMQ(t), "quorum")
	at := time.Unix(1_750_000_000, 0)
	for _, transient := range []bool{false, true} {
		config := c.config()
		config.Transient = transient
		got := newOutcomes(t)
		p := c.open(config, got.done)
		mustPublish(t, p, &publisher.Record{
			Topic: routedKey, Key: []byte("a"), Value: []byte("{}"), ID: "id", Type: "placed", ContentType: "application/json", Time: at,
			Headers: []publisher.Header{{Name: "cloudEvents_id", Value: []byte("id")}, {Name: "n", Value: []byte("1")}, {Name: "n", Value: []byte("2")}},
		})
		got.wait(1)
		ms := c.messages(c.queue)
		if len(ms) != 1 {
			t.Fatalf("%d messages arrived", len(ms))
		}
		m := ms[0]
		mode := amqp.Persistent
		if transient {
			mode = amqp.Transient
		}
		if m.MessageId != "id" || m.Type != "placed" || m.ContentType != "application/json" || !m.Timestamp.Equal(at) ||
			m.AppId != "outboxd" || m.DeliveryMode != mode || m.UserId != "" || string(m.Body) != "{}" || m.Exchange != c.exchange {
			t.Errorf("message %+v", m)
		}
		if n, ok := m.Headers["n"].([]any); m.Headers["cloudEvents_id"] != "id" || !ok || len(n) != 2 || n[0] != "1" || n[1] != "2" {
			t.Errorf("headers %#v", m.Headers)
		}
	}
}

// TestRoutingKeys: whatever an event makes a key of is a key to the broker: not
// a pattern, and not the end of one.
func TestRoutingKeys(t *testing.T) {
	c := newCorner(t, devtest.RabbitMQ(t), "quorum")
	all := c.queue + "_all"
	c.declare(all, "#", amqp.Table{"x-expires": int32(60_000)})
	got := newOutcomes(t)
	p := c.open(c.config(), got.done)
	keys := []string{"#", "*.*.*", routedKey + "\x00", routedKey + "\r\n", "\n" + routedKey, "..", "ü", strings.Repeat("k", 255)}
	for i, key := range keys {
		r := record(uint64(i), "a")
		r.Topic = key
		mustPublish(t, p, r)
	}
	got.wait(len(keys))
	var arrived []string
	for _, m := range c.messages(all) {
		arrived = append(arrived, m.RoutingKey)
	}
	if !slices.Equal(arrived, keys) {
		t.Errorf("published with %q, arrived with %q", keys, arrived)
	}
	if ms := c.messages(c.queue); len(ms) > 0 {
		t.Errorf("%d of them went where %s leads", len(ms), routedKey)
	}
}

// TestDiscard: what nobody subscribed to counts as published, and what follows
// of its key is delivered.
func TestDiscard(t *testing.T) {
	c := newCorner(t, devtest.RabbitMQ(t), "classic")
	config := c.config()
	config.Unroutable = rabbitmq.Discard
	got := newOutcomes(t)
	p := c.open(config, got.done)
	for i := range uint64(300) {
		r := record(i, "a")
		if r.Topic = routedKey; i%3 == 0 {
			r.Topic = strayKey
		}
		mustPublish(t, p, r)
	}
	got.wait(300)
	if n, s := got.count(), p.Stats(); n[""] != 300 || s.Returned != 100 || s.Discarded != 100 || s.Published != 200 {
		t.Errorf("outcomes %v, stats %+v", n, s)
	}
	if n := len(c.records()); n != 200 {
		t.Errorf("%d records arrived, want 200", n)
	}
}

// TestFaults disturbs a node of its own in the middle of a run.
func TestFaults(t *testing.T) {
	node := startNode(t, "")
	ctl := func(args ...string) {
		t.Helper()
		if out, err := node.Ctl(context.Background(), args...); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	for _, f := range []struct {
		name    string
		disturb func(c *corner)
		class   string // must be among the failures; "" is any
		// A quorum queue of RabbitMQ 3.10 alone on its node was seen to be
		// without a leader for minutes after a SIGKILL.
		classic bool
	}{
		{"connections closed by an operator", func(*corner) { ctl("close_all_connections", "test") }, "", false},
		{"exchange deleted and declared again", func(c *corner) {
			c.must(c.ch.ExchangeDelete(c.exchange, false, false))
			<-time.After(300 * time.Millisecond) // for Open to meet the hole
			c.must(c.ch.ExchangeDeclare(c.exchange, "topic", true, false, false, false, nil))
			c.must(c.ch.QueueBind(c.queue, routedKey, c.exchange, false, nil))
		}, "missing_exchange", false},
		{"binding removed for a while", func(c *corner) {
			c.must(c.ch.QueueUnbind(c.queue, routedKey, c.exchange, nil))
			<-time.After(300 * time.Millisecond)
			c.must(c.ch.QueueBind(c.queue, routedKey, c.exchange, false, nil))
		}, "unroutable", false},
		{"killed and started again", func(c *corner) {
			c.must(node.Kill(), node.Start(context.Background()))
		}, "unknown", true},
		{"stopped and started again", func(c *corner) {
			c.must(node.Stop(context.Background()), node.Start(context.Background()))
		}, "unknown", false},
		{"frozen for a while", func(c *corner) {
			c.must(syscall.Kill(node.PID(), syscall.SIGSTOP))
			<-time.After(4 * time.Second)
			c.must(syscall.Kill(node.PID(), syscall.SIGCONT))
		}, "unknown", false},
	} {
		t.Run(f.name, func(t *testing.T) {
			queueType := "quorum"
			if f.classic {
				queueType = "classic"
			}
			c := newCorner(t, node.URL(), queueType)
			config := c.config()
			config.Heartbeat = time.Second
			config.ConnectTimeout = 2 * time.Second
			config.ConfirmTimeout = 5 * time.Second
			r := newRun(t, config, 20_000, 1_000)
			r.whileRunning(func() { f.disturb(c) })
			if r.sessions < 2 || f.class != "" && r.classes[f.class] == 0 {
				t.Errorf("failures %v, want some %s: the fault was not met", r.classes, f.class)
			}
			// A node that comes up refuses what its queues cannot take yet.
			if n := r.classes["refused"]; n > 0 && !strings.Contains(f.name, "started again") {
				t.Errorf("%d records pass for refused", n)
			}
			if c.ch.IsClosed() {
				c.connect()
			}
			r.judge(c.records())
		})
	}
}

// TestMemoryAlarm: a real one blocks the connection, which is no failure, and
// does not hold up Close.
func TestMemoryAlarm(t *testing.T) {
	node := startNode(t, "")
	watermark := func(v string) {
		t.Helper()
		if out, err := node.Ctl(context.Background(), "set_vm_memory_high_watermark", v); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	c := newCorner(t, node.URL(), "quorum")
	config := c.config()
	config.Heartbeat = time.Second
	got := newOutcomes(t)
	p := c.open(config, got.done)
	mustPublish(t, p, bigRecord(0))
	got.wait(1)
	watermark("0")
	taken := fill(t, p)
	if s := p.Stats(); s.BlockedSince.IsZero() || s.BlockedReason == "" {
		t.Errorf("stats in an alarm: %+v", s)
	}
	if n := got.count(); n[""] != got.len() {
		t.Errorf("outcomes in an alarm: %v", n)
	}
	watermark("0.4")
	got.wait(int(taken))
	if n, s := got.count(), p.Stats(); n[""] != int(taken) || !s.BlockedSince.IsZero() {
		t.Errorf("outcomes after the alarm: %v, stats %+v", n, s)
	}

	watermark("0")
	fill(t, p)
	if err := shut(t, p, 500*time.Millisecond); !errors.Is(err, publisher.ErrClosed) {
		t.Errorf("close in an alarm: %v", err)
	}
	if n := got.count(); n["other"]+n["aborted"] > 0 || n["closed"] == 0 {
		t.Errorf("outcomes after close: %v", n)
	}
	watermark("0.4")
}

func bigRecord(token uint64) *publisher.Record {
	r := record(token, "a")
	r.Topic, r.Key, r.Value = routedKey, nil, make([]byte, 100_000)
	return r
}

// fill publishes until Publish has waited for three heartbeats, and returns
// the number of records that p has taken in its life.
func fill(t *testing.T, p *rabbitmq.Publisher) uint64 {
	t.Helper()
	for {
		s := p.Stats()
		taken := s.Published + uint64(s.InFlight+s.Waiting)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		err := p.Publish(ctx, bigRecord(taken))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return taken
		}
		if err != nil {
			t.Fatalf("publish in an alarm: %v", err)
		}
	}
}

// TestTooLargeForTheBroker: its max_message_size is lower than we think.
func TestTooLargeForTheBroker(t *testing.T) {
	node := startNode(t, "max_message_size = 100000\n")
	c := newCorner(t, node.URL(), "classic")
	config := c.config()
	config.Channels = 1
	got := newOutcomes(t)
	p := c.open(config, got.done)
	for i := range uint64(20) {
		r := record(i, strings.Repeat("k", int(i%5)+1))
		r.Topic = routedKey
		if i == 7 {
			r.Value = make([]byte, 100_001)
		}
		if p.Publish(t.Context(), r) != nil {
			break
		}
	}
	got.wait(8)
	_ = shut(t, p, time.Second)
	var poison *publisher.PoisonError
	if err := got.err(7); !errors.As(err, &poison) || poison.Reason != "too_large" || !strings.Contains(poison.Detail, "100000") {
		t.Errorf("the large record: %v", err)
	}
	n := got.count()
	if n["too_large"] != 1 || n["refused"] > 0 {
		t.Errorf("outcomes %v", n)
	}

	config.MaxMessageSize = 100_000
	got = newOutcomes(t)
	p = c.open(config, got.done)
	r := record(0, "a")
	r.Topic, r.Value = routedKey, make([]byte, 100_001)
	mustPublish(t, p, r)
	got.wait(1)
	if c := got.of(0); c != "too_large" {
		t.Errorf("with max_message_size: %v", got.err(0))
	}
}

func startNode(t *testing.T, config string) *devenv.RabbitMQ {
	t.Helper()
	node, err := devenv.StartRabbitMQ(t.Context(), devenv.RabbitMQOptions{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	return node
}

// TestParkUnroutable: what nobody subscribed to is poison, and nothing of its
// key behind it is delivered.
func TestParkUnroutable(t *testing.T) {
	c := newCorner(t, devtest.RabbitMQ(t), "classic")
	config := c.config()
	config.Unroutable = rabbitmq.Park
	failures := make(chan error, 10)
	p := c.open(config, func(_ *publisher.Record, err error) { failures <- err })
	stray := record(0, "a")
	stray.Topic = strayKey
	mustPublish(t, p, stray)
	var poison *publisher.PoisonError
	if err := <-failures; !errors.As(err, &poison) || poison.Reason != "unroutable" || !strings.Contains(poison.Detail, strayKey) {
		t.Errorf("%v, want poison for the reason unroutable", err)
	}
}
