package devenv_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv"
)

// isReady is content when the script has made the file "ready".
func isReady(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "ready"))
	return err
}

// What ignores the polite signal is killed, with its children.
func TestCloseKillsTheStubborn(t *testing.T) {
	t.Parallel()
	s, err := devenv.StartShell(testContext(t), `trap '' TERM; (trap '' TERM; sleep 1000) & touch ready; wait; wait; sleep 1000`, isReady)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(processesIn(t, s.Dir())); n < 3 {
		t.Errorf("%d processes in the sandbox, want the watchdog, the script and its child at least", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	expectNothingLeft(t, s.Dir())
}

// A crash is one of the whole service: its children do not work on.
func TestKillTakesTheChildren(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s, err := devenv.StartShell(ctx, `(trap '' HUP TERM; while :; do sleep 0.05; done) & touch ready; wait`, isReady)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	for len(processesIn(t, s.Dir())) > 1 { // the watchdog stays
		if ctx.Err() != nil {
			t.Fatalf("%q are still there", processesIn(t, s.Dir()))
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Close asks first: what can end in order gets to, also when it was frozen.
func TestCloseIsPolite(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*devenv.Shell) error{
		"running": func(*devenv.Shell) error { return nil },
		"frozen":  (*devenv.Shell).Freeze,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testFarewell(t, before)
		})
	}
}

func testFarewell(t *testing.T, before func(*devenv.Shell) error) {
	file := filepath.Join(t.TempDir(), "farewell")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// The service may be another user.
	if err := errors.Join(os.Chmod(file, 0o666), os.Chmod(filepath.Dir(file), 0o755), os.Chmod(filepath.Dir(filepath.Dir(file)), 0o755)); err != nil {
		t.Fatal(err)
	}
	s, err := devenv.StartShell(testContext(t), `trap 'echo farewell >`+file+`; exit' TERM; touch ready; while :; do sleep 0.05; done`, isReady)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(before(s), s.Close()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "farewell\n" {
		t.Errorf("the service said %q, %v; want its farewell", b, err)
	}
}

// A frozen service does nothing until it is thawed.
func TestFreeze(t *testing.T) {
	t.Parallel()
	s, err := devenv.StartShell(testContext(t), `touch ready; while sleep 0.01; do :; done`, isReady)
	if err != nil {
		t.Fatal(err)
	}
	state := func(want string) {
		t.Helper()
		for t.Context().Err() == nil { // the signal takes a moment
			stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.PID()), "stat"))
			if err != nil {
				t.Fatal(err)
			}
			if _, fields, _ := strings.Cut(string(stat), ") "); strings.ContainsAny(fields[:1], want) {
				return
			}
		}
	}
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	state("T")
	if err := s.Thaw(); err != nil {
		t.Fatal(err)
	}
	state("SR")
	if err := errors.Join(s.Freeze(), s.Kill()); err != nil {
		t.Fatal(err)
	}
	if err := s.Freeze(); err == nil {
		t.Error("a killed service was frozen")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A failed start says what the service said.
func TestStartReportsTheLog(t *testing.T) {
	t.Parallel()
	s, err := devenv.StartShell(testContext(t), `echo no power; exit 3`, isReady)
	if err == nil || !strings.Contains(err.Error(), "no power") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("start = %v, want the log and the exit status", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A service that never answers is killed when the context is over.
func TestStartHonoursContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s, err := devenv.StartShell(ctx, `sleep 1000`, isReady)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start = %v, want the end of the context", err)
	}
	if alive(s.PID()) {
		t.Error("the service is still there")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// What prepares a directory for a service is watched like the service: a program
// that dies meanwhile must not leave a copy or a format at work.
func TestPreparationOrphan(t *testing.T) {
	t.Parallel()
	testOrphan(t, "kill", func(ctx context.Context) (service, error) {
		return devenv.Prepare(ctx, `touch ready; while :; do mkdir -p "$PWD/again"; sleep 0.01; done`, isReady)
	})
}

func TestPreparationHonoursContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s, err := devenv.Prepare(ctx, `exec sleep 1000`, isReady)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("prepare = %v, want the end of the context", err)
	}
	if found := processesIn(t, s.Dir()); len(found) > 1 {
		t.Errorf("%q are there, want the watchdog alone", found)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestPreparationReportsTheLog(t *testing.T) {
	t.Parallel()
	s, err := devenv.Prepare(testContext(t), `echo no room; exit 3`, isReady)
	if err == nil || !strings.Contains(err.Error(), "no room") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("prepare = %v, want the log and the exit status", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogHoldsAllStarts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s, err := devenv.StartShell(ctx, `echo hello; touch ready; exec sleep 1000`, isReady)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Kill(), s.Start(ctx), s.Kill()); err != nil {
		t.Fatal(err)
	}
	if log, err := s.Log(); err != nil || !strings.HasPrefix(log, "hello\n") {
		t.Errorf("Log() = %q, %v; want a hello", log, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The window between fork and the watchdog's knowledge of the PID: a program
// that is killed then never gives the word, and the service never begins.
func TestLaunchWaitsForTheWord(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"": "", "go\n": "begun\n"} {
		cmd := exec.Command("/bin/sh", "-c", devenv.Launch, "sh", "echo", "begun")
		cmd.Stdin = strings.NewReader(word)
		out, _ := cmd.Output()
		if string(out) != want {
			t.Errorf("after the word %q the service printed %q, want %q", word, out, want)
		}
	}
}

func TestSandboxWithoutTempDir(t *testing.T) {
	t.Setenv("TMPDIR", "/no/such/directory")
	_, err := devenv.StartShell(testContext(t), `touch ready`, isReady)
	if err == nil || !strings.Contains(err.Error(), "/no/such/directory") {
		t.Errorf("start = %v, want an error that names the directory", err)
	}
}

func TestFreePort(t *testing.T) {
	for range 50 {
		port, err := devenv.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if port < 20000 || port >= 32000 {
			t.Errorf("port %d is where outgoing connections may take it", port)
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Errorf("port %d is not free: %v", port, err)
			continue
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
