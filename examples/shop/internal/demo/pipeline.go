package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// pipeline is one slot and one broker, and what outboxd is told about them.
type pipeline struct {
	name  string
	flags []string // of outboxd run
}

// pipelines are one for each broker: neither waits for the other. outboxd run
// is one pipeline, so each is a process of its own.
func (s *services) pipelines() []pipeline {
	list := []pipeline{{"kafka", []string{
		"--broker", "kafka://" + strings.Join(s.kafka, ","), "--create-topics", "--topic-partitions", "6",
	}}}
	if s.rabbitmq != "" {
		list = append(list, pipeline{"rabbitmq", []string{
			"--broker", s.rabbitmq, "--exchange", "outbox", "--routing-key", "{type}",
			"--unroutable", "discard", // nobody listens to order.* there, and that is all right
		}})
	}
	return list
}

// build makes the real outboxd, as a user gets it.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "outboxd")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/outboxd/outboxd/cmd/outboxd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build outboxd: %w\n%s", err, out)
	}
	return binary, nil
}

// setup runs outboxd setup, which makes the event table, the publication, the
// slot and the grants.
func (p pipeline) setup(ctx context.Context, binary, database string) error {
	cmd := exec.CommandContext(ctx, binary, "setup", "--database", database, "--pipeline", p.name,
		"--relay-role", "relay", "--app-role", "shop")
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("outboxd setup --pipeline %s: %w\n%s", p.name, err, out)
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
