//go:build !embedded

package inbound_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// newQueue declares a queue that no other test uses, for the rest of the test.
func newQueue(t *testing.T, url string) inbound.Queue {
	t.Helper()
	name := devtest.Name(t)
	q := inbound.Queue{Name: name, Exchange: name, Patterns: []string{"reservation.*", "order.cancelled"}}
	for range 2 { // as every start of a context does
		if err := q.Declare(url); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		withChannel(t, url, func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(name, false, false, false)
			return errors.Join(err, ch.ExchangeDelete(name, false, false))
		})
	})
	return q
}

func withChannel(t *testing.T, url string, do func(*amqp.Channel) error) {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		err = do(ch)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// send publishes events from first to before last, as outboxd would.
func send(t *testing.T, url string, q inbound.Queue, key string, first, last int) {
	t.Helper()
	withChannel(t, url, func(ch *amqp.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		for n := first; n < last; n++ {
			confirm, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), q.Exchange, key, true, false, amqp.Publishing{
				Headers: amqp.Table{
					"cloudEvents_id": fmt.Sprint(n), "cloudEvents_type": key, "cloudEvents_subject": "7", "cloudEvents_aggregatetype": "reservation",
					"cloudEvents_sequence": "0001", "cloudEvents_time": "2018-11-24T20:15:00Z", "x-delivery-count": int32(1),
				},
				Body: []byte("{}"),
			})
			if err != nil {
				return err
			}
			// Whoever closes a connection before may lose what it sent.
			if acked, err := confirm.WaitContext(t.Context()); !acked || err != nil {
				return fmt.Errorf("acked %t: %w", acked, err)
			}
		}
		return nil
	})
}

// consumer is member for a queue.
func consumer(t *testing.T, url string, q inbound.Queue, handle inbound.Handler) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- inbound.ConsumeRabbitMQ(ctx, url, q, handle) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

func TestCompetingConsumers(t *testing.T) {
	t.Parallel()
	const count = 200
	url := devtest.RabbitMQ(t)
	q := newQueue(t, url)
	var n notes
	stops := []func() error{consumer(t, url, q, n.handler(0)), consumer(t, url, q, n.handler(1))}
	send(t, url, q, "reservation.confirmed", 0, count)
	send(t, url, q, "order.placed", count, count+1) // bound to nothing
	send(t, url, q, "order.cancelled", count+1, count+2)
	distinct := map[string]bool{}
	eventually(t, "all events come", func() bool {
		for _, e := range n.take() {
			distinct[e.ID] = true
		}
		return len(distinct) == count+1
	})
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Errorf("stopped with %v", err)
		}
	}
	if got := len(n.take()); got != count+1 || distinct[fmt.Sprint(count)] {
		t.Errorf("%d deliveries, want %d", got, count+1)
	}
	e := n.take()[0]
	e.ID, e.Time = "", e.Time.UTC()
	got, want := fmt.Sprintf("%+v", e), fmt.Sprintf("%+v", inbound.Event{
		Position: "0001", AggregateType: "reservation", Subject: "7", Type: "reservation.confirmed",
		Time: time.Date(2018, 11, 24, 20, 15, 0, 0, time.UTC), Payload: []byte("{}"), Place: "queue " + q.Name,
	})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// An event whose handler fails goes back to the queue, and one that was handled
// does not.
func TestFailedDeliveryComesAgain(t *testing.T) {
	t.Parallel()
	url := devtest.RabbitMQ(t)
	q := newQueue(t, url)
	send(t, url, q, "reservation.rejected", 0, 10)
	sick := errors.New("no mail today")
	handled := 0
	err := inbound.ConsumeRabbitMQ(t.Context(), url, q, func(context.Context, inbound.Event) error {
		if handled == 5 {
			return sick
		}
		handled++
		return nil
	})
	if !errors.Is(err, sick) || !strings.Contains(err.Error(), "handle reservation.rejected 5 at queue") {
		t.Fatalf("ended with %v", err)
	}
	var n notes
	stop := consumer(t, url, q, n.handler(0))
	eventually(t, "the rest comes", func() bool { return len(n.take()) == 5 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if first := n.take()[0].ID; first != "5" {
		t.Errorf("the next consumer begins with event %s", first)
	}
}

func TestLostQueueIsAnError(t *testing.T) {
	t.Parallel()
	url := devtest.RabbitMQ(t)
	missing := inbound.Queue{Name: devtest.Name(t)}
	if err := inbound.ConsumeRabbitMQ(t.Context(), url, missing, nil); err == nil || !strings.Contains(err.Error(), "consume queue "+missing.Name) {
		t.Errorf("a missing queue: %v", err)
	}
	missing.Patterns = []string{"#"}
	if err := missing.Declare(url); err == nil {
		t.Error("a queue was bound to the default exchange")
	}
	q := newQueue(t, url)
	send(t, url, q, "reservation.released", 0, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := inbound.ConsumeRabbitMQ(ctx, url, q, func(context.Context, inbound.Event) error {
		withChannel(t, url, func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(q.Name, false, false, false)
			return err
		})
		return nil
	})
	if !errors.Is(err, amqp.ErrClosed) {
		t.Errorf("a deleted queue: %v", err)
	}
}
