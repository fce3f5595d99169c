package demo

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script makes an outboxd of a few lines of shell.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outboxd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (r *relay) logged(text string) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return strings.Contains(strings.Join(r.log, "\n"), text)
	}
}

func TestRelayEnds(t *testing.T) {
	const sleeping = `trap 'exit %' TERM; echo up >&2; while :; do sleep 0.05; done`
	t.Run("by itself", func(t *testing.T) {
		failed := make(chan error, 1)
		r := newRelay(invocation{title: "--pipeline kafka", run: []string{"--pipeline", "kafka"}}, script(t, `echo "slot is missing: $*" >&2; exit 78`), func(err error) { failed <- err })
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		err := <-failed
		for _, want := range []string{"exit status 78", "outboxd run --pipeline kafka ended", "slot is missing: run --metrics 127.0.0.1:0 --pipeline kafka"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: want %q", err, want)
			}
		}
	})
	for code, ok := range map[string]bool{"0": true, "1": false} {
		t.Run("on SIGTERM with "+code, func(t *testing.T) {
			r := newRelay(invocation{}, script(t, strings.Replace(sleeping, "%", code, 1)), func(err error) { t.Error(err) })
			if err := r.start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is up", r.logged("up"))
			if err := r.stop(t.Context()); (err == nil) != ok {
				t.Errorf("stop: %v", err)
			}
			if err := r.stop(t.Context()); err != nil {
				t.Errorf("stop again: %v", err)
			}
		})
	}
	t.Run("not on SIGTERM", func(t *testing.T) {
		r := newRelay(invocation{}, script(t, `trap '' TERM; echo up >&2; while :; do sleep 0.05; done`), func(err error) { t.Error(err) })
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is up", r.logged("up"))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := r.stop(ctx); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("stop: %v", err)
		}
	})
	t.Run("on kill -9, and lives again", func(t *testing.T) {
		r := newRelay(invocation{pipelines: []string{"kafka"}}, script(t, strings.Replace(sleeping, "%", "0", 1)), func(err error) { t.Error(err) })
		r.kill() // which does nothing yet
		for range 2 {
			if err := r.start(); err != nil {
				t.Fatal(err)
			}
			pid := r.states()[0].pid
			if err := syscall.Kill(pid, 0); err != nil {
				t.Errorf("process %d: %v", pid, err)
			}
			r.kill()
			if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
				t.Errorf("process %d after the kill: %v", pid, err)
			}
			if got := r.states()[0].pid; got != 0 {
				t.Errorf("state shows process %d after the kill", got)
			}
		}
	})
}

// What a life of the relay published last stays in the sum.
func TestRelayCountsAllItsLives(t *testing.T) {
	r := newRelay(invocation{pipelines: []string{"kafka", "rabbitmq"}}, script(t, `exec sleep 60`), func(err error) { t.Error(err) })
	for life := 1; life <= 2; life++ {
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		r.current = counts{{"kafka", "outbox.event.order"}: 10, {"rabbitmq", "outbox.event.order"}: 3}
		r.mu.Unlock()
		for _, when := range []string{"in", "after"} {
			states := r.states()
			if got := [...]int{states[0].of("order"), states[1].of("order")}; got != [...]int{10 * life, 3 * life} {
				t.Errorf("%s life %d: %d orders, want 10 and 3 a life", when, life, got)
			}
			r.kill()
		}
	}
}

func TestReadPublished(t *testing.T) {
	got := readPublished(strings.NewReader(`# HELP outboxd_events_published_total Events acked by the broker.
# TYPE outboxd_events_published_total counter
outboxd_events_published_total{destination="outbox.event.order",pipeline="kafka"} 1.234567e+06
outboxd_events_published_total{destination="reservation.confirmed",pipeline="rabbitmq"} 7
outboxd_events_received_total 9
`))
	want := counts{{"kafka", "outbox.event.order"}: 1234567, {"rabbitmq", "reservation.confirmed"}: 7}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestListening(t *testing.T) {
	for line, want := range map[string]string{
		`{"level":"INFO","msg":"listening","metrics":"http://127.0.0.1:45817/metrics"}`: "http://127.0.0.1:45817/metrics",
		`time=… level=INFO msg=listening metrics=http://127.0.0.1:9924/metrics`:         "http://127.0.0.1:9924/metrics",
		`{"level":"INFO","msg":"starting","broker":"kafka 127.0.0.1:9092"}`:             "",
	} {
		got := ""
		if m := listening.FindStringSubmatch(line); m != nil {
			got = m[1]
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("OUTBOXD_PIPELINE", "other")
	t.Setenv("PGHOST", "elsewhere")
	t.Setenv("SHOP", "open")
	got := strings.Join(environment(), "\n")
	if strings.Contains(got, "OUTBOXD_") || strings.Contains(got, "PGHOST") || !strings.Contains(got, "SHOP=open") {
		t.Error(got)
	}
}
