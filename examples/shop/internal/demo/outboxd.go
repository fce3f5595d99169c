package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// invocation is how outboxd is told what to do: by flags for one pipeline, by a
// file for two.
type invocation struct {
	title      string   // what people see of the arguments
	pipelines  []string // Kafka's first
	setup, run []string // arguments
}

// invocation needs a directory for the file.
func (s *services) invocation(dir string) (invocation, error) {
	kafka := "kafka://" + strings.Join(s.kafka, ",")
	if s.rabbitmq == "" {
		return invocation{
			title:     "--pipeline kafka",
			pipelines: []string{"kafka"},
			setup:     []string{"--database", s.admin, "--pipeline", "kafka"},
			run:       []string{"--database", s.relay, "--pipeline", "kafka", "--broker", kafka, "--create-topics", "--topic-partitions", "6"},
		}, nil
	}
	file := filepath.Join(dir, "outboxd.yaml")
	return invocation{
		title:     "--config outboxd.yaml",
		pipelines: []string{"kafka", "rabbitmq"},
		setup:     []string{"--config", file, "--database", s.admin},
		run:       []string{"--config", file},
	}, os.WriteFile(file, fmt.Appendf(nil, twoPipelines, s.relay, kafka, s.rabbitmq), 0o600)
}

// twoPipelines are one for each broker: neither waits for the other.
const twoPipelines = `database: %q

pipelines:
  kafka:
    broker: %q
    create-topics: true
    topic-partitions: 6
  rabbitmq:
    broker: %q
    exchange: outbox
    routing-key: "{type}"
    unroutable: discard # nobody listens to order.* there, and that is all right
`

// build makes the real outboxd, as make build does: what is compiled for one
// is not compiled again for the other.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "outboxd")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "github.com/outboxd/outboxd/cmd/outboxd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build outboxd: %w\n%s", err, out)
	}
	return binary, nil
}

// setUp runs outboxd setup, which makes the event table, the publications, the
// slots and the grants.
func (i invocation) setUp(ctx context.Context, binary string) error {
	cmd := exec.CommandContext(ctx, binary, append([]string{"setup", "--relay-role", "relay", "--app-role", "shop"}, i.setup...)...)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("outboxd setup %s: %w\n%s", i.title, err, out)
	}
	return nil
}

// environment is ours without what would configure outboxd or its connections.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "OUTBOXD_") && !strings.HasPrefix(v, "PG") {
			env = append(env, v)
		}
	}
	return env
}
