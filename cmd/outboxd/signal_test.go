package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSignals of the built program: two at once are one request; a later one
// ends a drain that does not end. The broker is a pipe that nobody empties.
func TestSignals(t *testing.T) {
	db, dir := database(t, "--pipeline", "p"), t.TempDir()
	compile(t, dir)
	insert(t, db, 0, 2000) // more than a pipe holds
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var log buffer
	cmd := exec.Command(filepath.Join(dir, "outboxd"), "run", "--database", db, "--pipeline", "p", "--broker", "jsonl:"+pipe, "--metrics", "127.0.0.1:0")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	signal := func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	says := func(text string) func() bool {
		return func() bool { return strings.Contains(log.String(), text) }
	}
	eventually(t, "listening", says(`"metrics":"http://`))
	_, address, _ := strings.Cut(log.String(), `"metrics":"`)
	address, _, _ = strings.Cut(address, `"`)
	eventually(t, "events that the pipe does not take", func() bool { return inFlight(address) > 100 })
	signal()
	signal()
	eventually(t, "the drain", says(`"msg":"stopping"`))
	select {
	case err := <-exited:
		t.Fatalf("two signals at once ended the drain: %v\n%s", err, log.String())
	case <-time.After(2 * sameSignal):
	}
	signal()
	select {
	case <-exited:
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.Signal() != syscall.SIGTERM {
			t.Errorf("exit status %v, want the signal", cmd.ProcessState)
		}
	case <-time.After(10 * time.Second):
		t.Error("another signal did not end the drain")
	}
}

// inFlight asks the relay's metrics.
func inFlight(address string) (events int) {
	resp, err := http.Get(address)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0
	}
	_, value, _ := strings.Cut(string(body), "\noutboxd_inflight_events{pipeline=\"p\"} ")
	_, _ = fmt.Sscan(value, &events)
	return events
}

// compile builds the program into dir.
func compile(t *testing.T, dir string) {
	t.Helper()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "outboxd"), ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
}
