//go:build !embedded

package devenv_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/devenv"
)

func TestRabbitMQLifecycle(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	r, err := devenv.StartRabbitMQ(ctx, devenv.RabbitMQOptions{Config: "channel_max = 17"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	conn, err := amqp.Dial(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.Config.ChannelMax; got != 17 {
		t.Errorf("channel_max = %d, want the 17 of the options", got)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	testLifecycle(ctx, t, r,
		func() error { return r.Stop(ctx) },
		func(s string) error {
			return withChannel(r.URL(), nil, func(ch *amqp.Channel) error { return publish(ctx, ch, s) })
		},
		func() (s string, err error) {
			err = withChannel(r.URL(), nil, func(ch *amqp.Channel) error {
				s, err = peek(ch)
				return err
			})
			return s, err
		})
}

func TestRabbitMQCtl(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	r, err := devenv.StartRabbitMQ(ctx, devenv.RabbitMQOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Ctl(ctx, "add_vhost", "other"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, r.CtlPath(), "--quiet", "list_vhosts").Output()
	if err != nil || !strings.Contains(string(out), "other") {
		t.Errorf("list_vhosts = %q, %v; want the virtual host that was added", out, err)
	}
	if _, err := r.Ctl(ctx, "no_such_command"); err == nil || !strings.Contains(err.Error(), "no_such_command") {
		t.Errorf("an unknown command: %v, want an error that names it", err)
	}
}

func TestRabbitMQOrphan(t *testing.T) {
	t.Parallel()
	testOrphan(t, "kill", func(ctx context.Context) (service, error) {
		return devenv.StartRabbitMQ(ctx, devenv.RabbitMQOptions{})
	})
}

const queue = "kept"

// withChannel calls do when the durable queue is there.
func withChannel(url string, arguments amqp.Table, do func(*amqp.Channel) error) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, arguments); err != nil {
		return err
	}
	return do(ch)
}

// publish replaces the content of the durable queue, confirmed.
func publish(ctx context.Context, ch *amqp.Channel, s string) error {
	if _, err := ch.QueuePurge(queue, false); err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	confirmation, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(s)})
	if err != nil {
		return err
	}
	if acked, err := confirmation.WaitContext(ctx); err != nil || !acked {
		return fmt.Errorf("publish %q: acked %v, %w", s, acked, err)
	}
	return nil
}

// peek reads the message in the queue, which goes back to it with the channel.
func peek(ch *amqp.Channel) (string, error) {
	message, ok, err := ch.Get(queue, false)
	if err != nil || !ok {
		return "", fmt.Errorf("get from %s: found %v, %w", queue, ok, err)
	}
	return string(message.Body), nil
}
