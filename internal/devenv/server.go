package devenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// startTimeout bounds a start whose context has no earlier deadline. Kafka on a
// machine with two cores and a load of 15 was seen to take half a minute.
const startTimeout = 90 * time.Second

// server is what all services share: in a sandbox, one main process that can be
// stopped, killed, frozen and started again.
type server struct {
	box   *sandbox
	cmd   command
	ready func(context.Context) error // nil error: the service answers

	mu   sync.Mutex
	proc *process // nil before the first start
}

// Start starts the service again after Stop or Kill, with the same port and
// data, and returns when it answers. The first start has been done by the
// function that made it. Starting a running service is an error.
func (s *server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil && s.proc.running() {
		return fmt.Errorf("start %s: it is running with PID %d", s.cmd.name, s.proc.cmd.Process.Pid)
	}
	proc, err := s.box.start(s.cmd)
	if err != nil {
		return err
	}
	s.proc = proc
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := proc.await(ctx, s.ready); err != nil {
		return errors.Join(err, proc.kill())
	}
	return nil
}

// await polls ready until it succeeds, the process ends or ctx is done.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("start %s: it ended (%w); its log ends:\n%s", p.name, p.err, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w; last answer: %w; its log ends:\n%s", p.name, context.Cause(ctx), err, p.logTail())
		case <-tick.C:
		}
	}
}

// stop sends sig to the main process and waits for its end.
func (s *server) stop(ctx context.Context, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.signal(ctx, sig)
}

// Kill ends the service with SIGKILL and returns when its main process is gone.
// Killing a service that does not run does nothing.
func (s *server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.kill()
}

// PID is the process id of the service's main process: of the one that runs or
// ran last.
func (s *server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.cmd.Process.Pid
}

// Log returns what the service has written to its log since it was made.
func (s *server) Log() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return "", nil
	}
	b, err := os.ReadFile(s.proc.log)
	if err != nil {
		return "", fmt.Errorf("read log of %s: %w", s.cmd.name, err)
	}
	return string(b), nil
}

// Freeze stops the main process in the middle of whatever it does, with
// SIGSTOP: its connections stay open, and it answers nothing until Thaw. Kill
// and Close end a frozen service too; an orderly stop waits for the thaw.
func (s *server) Freeze() error { return s.send(syscall.SIGSTOP) }

// Thaw lets a frozen service go on. One that is not frozen goes on anyway.
func (s *server) Thaw() error { return s.send(syscall.SIGCONT) }

// send sends sig to a main process that must run.
func (s *server) send(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || !s.proc.running() {
		return fmt.Errorf("send %v to %s: it does not run", sig, s.cmd.name)
	}
	if err := s.proc.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %v to %s: %w", sig, s.cmd.name, err)
	}
	return nil
}
