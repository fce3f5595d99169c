//go:build !embedded

package devenv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/devenv"
)

// TestRabbitMQCluster takes one node after the other away in each of the ways: a
// quorum queue goes on.
func TestRabbitMQCluster(t *testing.T) {
	ctx := testContext(t)
	r, err := devenv.StartRabbitMQCluster(ctx, devenv.RabbitMQOptions{Config: "channel_max = 17"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, away := range []struct {
		how       string
		take, put func(*devenv.RabbitMQNode) error
	}{
		{"stopped", func(n *devenv.RabbitMQNode) error { return n.Stop(ctx) }, func(n *devenv.RabbitMQNode) error { return n.Start(ctx) }},
		{"killed", (*devenv.RabbitMQNode).Kill, func(n *devenv.RabbitMQNode) error { return n.Start(ctx) }},
		// Not thawed: this version was seen to stay divided after that.
		{"frozen", (*devenv.RabbitMQNode).Freeze, func(n *devenv.RabbitMQNode) error { return errors.Join(n.Kill(), n.Start(ctx)) }},
	} {
		node, other := r.Nodes()[i], r.Nodes()[(i+1)%3]
		if err := away.take(node); err != nil {
			t.Fatalf("%s: %v", away.how, err)
		}
		persist(ctx, t, other.URL(), func(ctx context.Context, ch *amqp.Channel) error { return publish(ctx, ch, away.how) })
		if err := away.put(node); err != nil {
			t.Fatalf("back from %s: %v", away.how, err)
		}
		persist(ctx, t, node.URL(), func(_ context.Context, ch *amqp.Channel) error {
			got, err := peek(ch)
			if err == nil && got != away.how {
				err = fmt.Errorf("the node that was %s reads %q", away.how, got)
			}
			return err
		})
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	expectNothingLeft(t, r.Dir())
}

// persist does something with a quorum queue, again until it succeeds: the queue
// may be choosing a leader, and forget meanwhile what it was asked.
func persist(ctx context.Context, t *testing.T, url string, do func(context.Context, *amqp.Channel) error) {
	t.Helper()
	var err error
	if !poll(ctx, func() bool {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err = withChannel(url, amqp.Table{"x-queue-type": "quorum"}, func(ch *amqp.Channel) error { return do(once, ch) })
		return err == nil
	}) {
		t.Fatal(err)
	}
}
