package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// result is what one call of the program came to.
type result struct {
	exit     int
	out, err string
}

// call runs the program in this process until it exits by itself.
func call(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	var out, err buffer
	exit := execute(t.Context(), args, environ, streams{in: strings.NewReader(""), out: &out, err: &err})
	return result{exit, out.String(), err.String()}
}

// expect checks the exit code and that the texts stand in what was written to
// standard error.
func (r result) expect(t *testing.T, exit int, texts ...string) {
	t.Helper()
	if r.exit != exit {
		t.Errorf("exit code %d, want %d", r.exit, exit)
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Errorf("standard error does not say %q", text)
		}
	}
	if t.Failed() {
		t.Logf("standard error:\n%s", r.err)
	}
}

// background is the program running in this process.
type background struct {
	t        *testing.T
	out, err buffer
	stop     context.CancelFunc // like SIGTERM
	exited   chan int
}

func start(t *testing.T, environ []string, args ...string) *background {
	ctx, stop := context.WithCancel(context.Background())
	b := &background{t: t, stop: stop, exited: make(chan int, 1)}
	go func() {
		b.exited <- execute(ctx, args, environ, streams{in: strings.NewReader(""), out: &b.out, err: &b.err})
	}()
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("standard error of %v:\n%s", args, b.err.String())
		}
	})
	return b
}

// finish stops the program and returns its exit code.
func (b *background) finish() int {
	b.stop()
	code := <-b.exited
	b.exited <- code
	return code
}

// buffer may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// golden compares got with a file below testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("../../testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (rewrite it with -update):\n%s", path, got)
	}
}
