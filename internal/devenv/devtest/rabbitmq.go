//go:build !embedded

package devtest

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv"
)

const (
	rabbitVar    = "OUTBOXD_TEST_RABBITMQ"
	rabbitCtlVar = "OUTBOXD_TEST_RABBITMQCTL"
)

// RabbitMQ returns the URL of a real RabbitMQ, default virtual host: that of
// OUTBOXD_TEST_RABBITMQ, else of the one that this process shares. Take the
// names of exchanges and queues from Name, and delete them or let them expire.
func RabbitMQ(t testing.TB) string {
	t.Helper()
	if url := os.Getenv(rabbitVar); url != "" {
		return url
	}
	return rabbit(t).URL()
}

// RabbitMQCtl runs rabbitmqctl for the node of RabbitMQ and returns what it
// printed: to add users or virtual hosts, or to close one's own connections.
func RabbitMQCtl(t testing.TB, args ...string) string {
	t.Helper()
	command := []string{}
	if os.Getenv(rabbitVar) == "" {
		command = append(command, rabbit(t).CtlPath())
	} else {
		command = strings.Fields(os.Getenv(rabbitCtlVar))
	}
	if len(command) == 0 {
		t.Fatalf("%s is set, %s is not: it must be the command that runs rabbitmqctl there", rabbitVar, rabbitCtlVar)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command = append(command, args...)
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("rabbitmqctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// RabbitMQCluster returns the three nodes that this process shares, which no
// other process uses. A test that takes one of them away does not run beside
// others, and brings it back.
func RabbitMQCluster(t testing.TB) *devenv.RabbitMQCluster {
	t.Helper()
	return get(t, &shared, "a RabbitMQ cluster", func(ctx context.Context) (*devenv.RabbitMQCluster, error) {
		return devenv.StartRabbitMQCluster(ctx, devenv.RabbitMQOptions{})
	})
}

func rabbit(t testing.TB) *devenv.RabbitMQ {
	t.Helper()
	return get(t, &shared, "RabbitMQ", func(ctx context.Context) (*devenv.RabbitMQ, error) {
		return devenv.StartRabbitMQ(ctx, devenv.RabbitMQOptions{})
	})
}
