package devenv_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv"
)

// scratch is one with a program in it, as testOrphan wants it.
type scratch struct {
	*devenv.Scratch
	cmd *exec.Cmd
}

func startScratch(context.Context) (service, error) {
	s, err := devenv.NewScratch("test")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", `trap '' TERM INT HUP; while :; do sleep 0.05; done`)
	cmd.Dir = s.Dir()
	return &scratch{s, cmd}, s.Start(cmd)
}

func (s *scratch) Start(context.Context) error { return s.Scratch.Start(s.cmd) }
func (s *scratch) Kill() error                 { return s.cmd.Process.Kill() }
func (s *scratch) PID() int                    { return s.cmd.Process.Pid }

func TestScratchOrphan(t *testing.T) {
	t.Parallel()
	testOrphan(t, "kill", startScratch)
}

func TestScratchPanic(t *testing.T) {
	t.Parallel()
	testOrphan(t, "panic", startScratch)
}

func TestScratchClose(t *testing.T) {
	t.Parallel()
	s, err := devenv.NewScratch("test")
	if err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err := errors.Join(s.Start(gone), s.Wait(gone)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	runs := exec.Command("sleep", "1000")
	if err := s.Start(runs); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(runs) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("what ran in a closed scratch ended with %v, want it killed", err)
	}
	expectNothingLeft(t, s.Dir())
	if err := s.Start(exec.Command("sleep", "1000")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("start in a closed scratch = %v, want os.ErrClosed", err)
	}
}
