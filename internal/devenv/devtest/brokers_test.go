//go:build !embedded

package devtest_test

import (
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestKafka(t *testing.T) {
	brokers := devtest.Kafka(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if again := devtest.Kafka(t); !slices.Equal(again, brokers) {
		t.Errorf("brokers %q, then %q", brokers, again)
	}
}

func TestKafkaHonoursVariable(t *testing.T) {
	t.Setenv("OUTBOXD_TEST_KAFKA", "a:1,b:2")
	if got, want := devtest.Kafka(t), []string{"a:1", "b:2"}; !slices.Equal(got, want) {
		t.Errorf("Kafka() = %q, want %q", got, want)
	}
}

func TestRabbitMQ(t *testing.T) {
	conn, err := amqp.Dial(devtest.RabbitMQ(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The command line speaks to the same node.
	vhost := devtest.Name(t)
	devtest.RabbitMQCtl(t, "add_vhost", vhost)
	defer devtest.RabbitMQCtl(t, "delete_vhost", vhost)
	if out := devtest.RabbitMQCtl(t, "list_vhosts"); !strings.Contains(out, vhost) {
		t.Errorf("list_vhosts = %q, want %s in it", out, vhost)
	}
}

func TestRabbitMQHonoursVariables(t *testing.T) {
	t.Setenv("OUTBOXD_TEST_RABBITMQ", "amqp://elsewhere/")
	t.Setenv("OUTBOXD_TEST_RABBITMQCTL", "echo ctl")
	if got := devtest.RabbitMQ(t); got != "amqp://elsewhere/" {
		t.Errorf("RabbitMQ() = %q, want the URL of the variable", got)
	}
	if got := devtest.RabbitMQCtl(t, "list_vhosts"); got != "ctl list_vhosts\n" {
		t.Errorf("RabbitMQCtl() = %q, want the output of the variable's command", got)
	}
}
