package devenv_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// service is what the tests below need of each service.
type service interface {
	Start(context.Context) error
	Kill() error
	Close() error
	PID() int
	Dir() string
}

// testContext ends with the test, and long before go test's own time limit.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// testLifecycle takes a running service through an orderly restart and a crash,
// and closes it. write stores a value durably; read returns the last one stored.
func testLifecycle(ctx context.Context, t *testing.T, s service, stop func() error, write func(string) error, read func() (string, error)) {
	t.Helper()
	expect := func(when, want string) {
		t.Helper()
		if got, err := read(); err != nil || got != want {
			t.Fatalf("%s: read %q, %v; want %q", when, got, err, want)
		}
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	must("write", write("first"))
	expect("after the start", "first")
	if err := s.Start(ctx); err == nil {
		t.Fatal("a running service was started once more")
	}
	must("stop", stop())
	if alive(s.PID()) {
		t.Fatalf("process %d is there after stop", s.PID())
	}
	must("stop a stopped service", stop())
	must("start after stop", s.Start(ctx))
	expect("after a restart", "first")

	must("write", write("second"))
	pid := s.PID()
	must("kill", s.Kill())
	if alive(pid) {
		t.Fatalf("process %d is there after kill", pid)
	}
	must("kill a killed service", s.Kill())
	must("start after kill", s.Start(ctx))
	if s.PID() == pid {
		t.Fatal("the PID is that of the killed process")
	}
	expect("after a crash", "second")

	if found := processesIn(t, s.Dir()); len(found) < 2 {
		t.Fatalf("only %q seen in the directory of a running service, not it and its watchdog", found)
	}
	must("close", s.Close())
	expectNothingLeft(t, s.Dir())
	must("close once more", s.Close())
	if err := s.Start(ctx); err == nil {
		t.Fatal("a closed service was started")
	}
}

const childVar = "DEVENV_TEST_CHILD"

// testOrphan runs the calling test once more as a child process, in which start
// starts a service, ends the child in the given way, "kill" or "panic", and
// waits until nothing of the service is left.
func testOrphan(t *testing.T, end string, start func(context.Context) (service, error)) {
	t.Helper()
	if os.Getenv(childVar) != "" {
		beOrphaned(t, end, start)
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), childVar+"=1")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	var dir string
	for dir == "" && lines.Scan() {
		dir, _ = strings.CutPrefix(lines.Text(), "started in ")
		if dir == lines.Text() {
			t.Log(dir)
			dir = ""
		}
	}
	if found := processesIn(t, dir); dir != "" && len(found) < 2 {
		t.Errorf("only %q seen in the directory of a running service, not it and its watchdog", found)
	}
	if end == "kill" {
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	} else if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, stdout)
	if err := child.Wait(); err == nil {
		t.Error("the child ended well; it should have died")
	}
	if dir == "" {
		t.Fatal("the child did not start the service")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	poll(ctx, func() bool { return len(leftovers(t, dir)) == 0 })
	expectNothingLeft(t, dir)
}

// poll asks until ok, which it returns, or ctx ends.
func poll(ctx context.Context, ok func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// beOrphaned is the child: it reports where its service is, and waits.
func beOrphaned(t *testing.T, end string, start func(context.Context) (service, error)) {
	s, err := start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("started in " + s.Dir())
	_, _ = io.Copy(io.Discard, os.Stdin)
	panic("the test panics: " + end)
}

func expectNothingLeft(t *testing.T, dir string) {
	t.Helper()
	for _, what := range leftovers(t, dir) {
		t.Errorf("left behind: %s", what)
	}
}

// leftovers lists the directory of a service and the processes in it.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	found := processesIn(t, dir)
	if _, err := os.Lstat(dir); err == nil {
		found = append(found, dir)
	}
	return found
}

// processesIn lists the processes that work in dir or were started with it in
// their arguments.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, proc := range procs {
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		args, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		if strings.HasPrefix(cwd, dir) || strings.Contains(string(args), dir) {
			found = append(found, fmt.Sprintf("%s (%q in %s)", proc, args, cwd))
		}
	}
	return found
}

func alive(pid int) bool {
	return syscall.Kill(pid, 0) == nil
}
