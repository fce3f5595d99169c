package devenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// command is how a program is run in a sandbox.
type command struct {
	name string   // for the log file and errors
	args []string // args[0] is the path of the program
	env  []string // the whole environment
}

// process is one running program in a sandbox.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the program has ended and err is set
	err  error
}

// launch is the shell that a process is until the watchdog knows its PID.
const launch = `read -r go && exec "$@" </dev/null`

// start runs c in a session of its own, with its output appended to NAME.log in
// the sandbox.
func (s *sandbox) start(c command) (*process, error) {
	p := &process{
		name: c.name,
		log:  filepath.Join(s.dir, c.name+".log"),
		done: make(chan struct{}),
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", c.name, err)
	}
	defer log.Close()

	p.cmd = exec.Command("/bin/sh", append([]string{"-c", launch, "sh"}, c.args...)...)
	p.cmd.Dir = s.dir
	p.cmd.Env = c.env
	p.cmd.Stdout = log
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.cred}
	gate, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("create pipe to %s: %w", c.name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	err = s.tell("+", p.cmd.Process.Pid)
	if err == nil {
		_, err = io.WriteString(gate, "go\n")
	}
	err = errors.Join(err, gate.Close())
	go p.reap(s)
	if err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return p, nil
}

// run runs c in the sandbox to its end.
func (s *sandbox) run(ctx context.Context, c command) error {
	p, err := s.start(c)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("run %s: %w", c.name, context.Cause(ctx)), p.kill())
	}
	if p.err != nil {
		return fmt.Errorf("run %s: %w: %s", c.name, p.err, p.logTail())
	}
	return nil
}

func (p *process) reap(s *sandbox) {
	p.err = p.cmd.Wait()
	// A closed sandbox has no use for the news.
	if err := s.tell("-", p.cmd.Process.Pid); err != nil && !errors.Is(err, os.ErrClosed) {
		p.err = errors.Join(p.err, err)
	}
	close(p.done)
}

// running reports whether the program has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends sig to the program and waits until it has ended, in whatever
// way. A program that has ended already is not an error.
func (p *process) signal(ctx context.Context, sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to end after %v: %w", p.name, sig, context.Cause(ctx))
	}
}

// kill kills the program and those of its children that stayed in its process
// group, and waits for its end.
func (p *process) kill() error {
	if !p.running() {
		return nil
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}

// logTail returns the last lines of what the program wrote, for an error.
func (p *process) logTail() string {
	const lines = 15
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
