package cdc_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/internal/devenv"
)

// TestLostAfterRun: whoever has stopped reading, and waits for acks, learns
// that the server is shutting down. The server waits for the stream to be
// closed.
func TestLostAfterRun(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	stream, err := fixtureAt(t, server.URL("postgres", "postgres")).reader().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	ctx, stop := context.WithCancelCause(t.Context())
	stop(stopped)
	err = stream.Run(ctx, func(context.Context, *cdc.Message) error { return nil })
	if !errors.Is(err, stopped) {
		t.Errorf("run ended with %v", err)
	}
	select {
	case <-stream.Lost():
		t.Error("the stream is lost because Run has returned")
	default:
	}
	down := make(chan error, 1)
	go func() { down <- server.Stop(context.Background(), "fast") }()
	select {
	case <-stream.Lost():
	case <-time.After(30 * time.Second):
		t.Error("nothing tells that the server is shutting down")
	}
	_ = stream.Close(t.Context())
	if err := <-down; err != nil {
		t.Error(err)
	}
}
