//go:build !embedded

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// rabbit is a RabbitMQ with an exchange that no other test uses, and the queue
// that is to be bound to it. Neither is there yet.
type rabbit struct {
	t    *testing.T
	url  string // with a login of its own
	name string // of exchange and queue
	ch   *amqp.Channel
}

func newRabbit(t *testing.T) *rabbit {
	t.Helper()
	server := devtest.RabbitMQ(t)
	r := &rabbit{t: t, name: devtest.Name(t)}
	devtest.RabbitMQCtl(t, "add_user", r.name, "rabbit-secret")
	devtest.RabbitMQCtl(t, "set_permissions", r.name, ".*", ".*", ".*")
	t.Cleanup(func() { devtest.RabbitMQCtl(t, "delete_user", r.name) })
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(r.name, "rabbit-secret")
	r.url = u.String()
	conn, err := amqp.Dial(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if r.ch, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = r.ch.QueueDelete(r.name, false, false, false)
		_ = r.ch.ExchangeDelete(r.name, false, false)
	})
	return r
}

func (r *rabbit) broker() []string { return []string{"--broker", r.url, "--exchange", r.name} }

func (r *rabbit) declareExchange() {
	r.t.Helper()
	if err := r.ch.ExchangeDeclare(r.name, "topic", true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rabbit) bindQueue(key string) {
	r.t.Helper()
	if _, err := r.ch.QueueDeclare(r.name, true, false, false, false, nil); err != nil {
		r.t.Fatal(err)
	}
	if err := r.ch.QueueBind(r.name, key, r.name, false, nil); err != nil {
		r.t.Fatal(err)
	}
}

// expect waits for events first to last in the queue, in order and once.
func (r *rabbit) expect(first, last int) {
	r.t.Helper()
	want := upTo(first, last)
	var got []int
	settled := 0
	for deadline := time.Now().Add(30 * time.Second); settled < 5 && time.Now().Before(deadline); {
		d, ok, err := r.ch.Get(r.name, true)
		if err != nil {
			r.t.Fatal(err)
		}
		if !ok {
			if len(got) >= len(want) {
				settled++ // a while longer, for what should not come
			}
			<-time.After(50 * time.Millisecond)
			continue
		}
		var value struct{ N int }
		if err := json.Unmarshal(d.Body, &value); err != nil {
			r.t.Fatal(err)
		}
		got = append(got, value.N)
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("events %v arrived, want %v", got, want)
	}
}

// holds waits until /readyz and the metric say what an event waits for.
func (r *relay) holds(reason, target string, words ...string) {
	r.t.Helper()
	r.says(http.StatusServiceUnavailable, append(words, "held", reason, target)...)
	_, body := r.get("/metrics")
	contains(r.t, body, fmt.Sprintf("reason=%q,target=%q} 1", reason, target))
}

// TestFailFastOfRabbitMQ: what else is held, as rows of TestMatrixRabbitMQ show,
// ends the relay with --fail-fast.
func TestFailFastOfRabbitMQ(t *testing.T) {
	t.Parallel()
	b, s := newRabbit(t), owned(t)
	s.write(1, 3)
	s.gives(append(b.broker(), "--fail-fast")...).expect(t, 69, "missing_exchange", b.name,
		"declare the exchange and bind a queue to it", "--exchange", "the relay declares nothing")
	b.declareExchange()
	b.bindQueue("something.else")
	s.gives(append(b.broker(), "--fail-fast")...).expect(t, 69, "unroutable", "order.placed",
		"bind a queue to exchange", b.name, "--unroutable discard")
	b.bindQueue("order.*")
	discreet(s.run(b.broker()...)).says(http.StatusOK, "streaming")
	b.expect(1, 3)
}

// TestUnroutableDiscarded: --unroutable discard lets an event go that no queue
// is bound for, and counts it.
func TestUnroutableDiscarded(t *testing.T) {
	t.Parallel()
	b, s := newRabbit(t), owned(t)
	b.declareExchange()
	b.bindQueue("something.else")
	s.write(1, 3)
	r := discreet(s.run(append(b.broker(), "--unroutable", "discard")...))
	eventually(t, 30*time.Second, "three events are discarded and counted", func() bool { return r.metric("outboxd_events_discarded_total") == 3 })
	r.says(http.StatusOK, "streaming")
	b.bindQueue("order.*")
	s.write(4, 5)
	b.expect(4, 5)
	if n := r.metric("outboxd_events_discarded_total"); n != 3 {
		t.Errorf("%v events discarded, want 3", n)
	}
}

func TestRabbitMQRefusesLogin(t *testing.T) {
	t.Parallel()
	b, s := newRabbit(t), owned(t)
	s.gives("--broker", strings.Replace(b.url, "rabbit-secret", "wrong-secret", 1)).
		expect(t, 77, "broker_authentication", "user or password refused", "correct the login of --broker: user and password, or token")
	s.write(1, 1)
	r := discreet(s.run("--broker", strings.TrimSuffix(b.url, "/")+"/nowhere", "--exchange", b.name))
	r.says(http.StatusServiceUnavailable, "missing_vhost", "create the vhost")
}
