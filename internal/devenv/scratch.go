package devenv

import (
	"fmt"
	"os/exec"
)

// Scratch is a directory for what a program makes and runs, of the program's
// own user. When the program ends, in whatever way, the processes that it
// started there are killed and the directory is removed. It is safe for
// concurrent use.
type Scratch struct {
	box *sandbox
}

// NewScratch creates a directory whose name contains name. Close it when done.
func NewScratch(name string) (*Scratch, error) {
	box, err := newSandboxAs(nil, name, "KILL")
	if err != nil {
		return nil, err
	}
	return &Scratch{box}, nil
}

// Dir is the directory.
func (s *Scratch) Dir() string { return s.box.dir }

// Start starts cmd, which must be waited for with Wait. A program that is
// killed in the instant between the two steps of Start leaves cmd behind; those
// of a service are not started like this.
func (s *Scratch) Start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := s.box.tell("+", cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// Wait waits for the end of cmd, which Start has started. Its error is that of
// cmd.Wait.
func (s *Scratch) Wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	_ = s.box.tell("-", cmd.Process.Pid) // a closed Scratch has killed it
	return err
}

// Close kills what still runs and removes the directory. A second call does
// nothing.
func (s *Scratch) Close() error { return s.box.close() }
