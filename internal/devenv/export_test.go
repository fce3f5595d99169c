package devenv

import (
	"context"
	"time"
)

// Dir is where a service keeps everything.
func (s *server) Dir() string { return s.box.dir }

// Dir is where a cluster keeps everything.
func (k *KafkaCluster) Dir() string { return k.box.dir }

// Dir is where a cluster keeps everything.
func (r *RabbitMQCluster) Dir() string { return r.box.dir }

var (
	Cached   = cached
	FreePort = freePort
)

// Launch is the shell program that waits for permission to become a service.
const Launch = launch

// StartShell starts a shell script as a service that is ready when the file
// "ready" is in its directory.
func StartShell(ctx context.Context, script string, ready func(dir string) error) (*Shell, error) {
	box, err := newSandbox("shell", "TERM")
	if err != nil {
		return nil, err
	}
	s := &Shell{server{
		box:   box,
		cmd:   command{name: "shell", args: []string{"/bin/sh", "-c", script}},
		ready: func(context.Context) error { return ready(box.dir) },
	}}
	return s, s.Start(ctx)
}

// Shell is a service for tests of what all services share.
type Shell struct{ server }

// Close ends the script.
func (s *Shell) Close() error { return s.box.close() }

// Prepare runs a shell script as what comes before a service, and returns when
// the file "ready" is in its directory. The script runs on.
func Prepare(ctx context.Context, script string, ready func(dir string) error) (*Shell, error) {
	box, err := newSandbox("shell", "TERM")
	if err != nil {
		return nil, err
	}
	s := &Shell{server{box: box}}
	result := make(chan error, 1)
	go func() { result <- box.run(ctx, command{name: "prepare", args: []string{"/bin/sh", "-c", script}}) }()
	for ready(box.dir) != nil {
		select {
		case err := <-result:
			return s, err
		case <-time.After(10 * time.Millisecond):
		}
	}
	return s, nil
}
