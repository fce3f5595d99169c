package devenv

import (
	"bufio"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

//go:embed watchdog.sh
var watchdogScript string

// sandbox is the directory of one service and the guarantee that nothing of the
// service outlives this program, however the program ends.
//
// The guarantee is a pipe. A small shell script, the watchdog, reads from it in
// a session of its own; the kernel closes our end when we end, and the watchdog
// then stops the processes that it was told of and removes the directory.
// Closing the sandbox is the same act, so there is one way to clean up and it
// is exercised all the time. No instant is uncovered:
//
//   - The watchdog creates the directory itself, so there is none without it.
//   - A process is first a shell that waits for a line on its standard input.
//     Its PID goes to the watchdog, then the line lets it become the service.
//     If we are killed before the line is written, the shell reads the end of
//     its input and exits; if after, the watchdog knows the PID.
type sandbox struct {
	dir  string
	cred *syscall.Credential

	watchdog *exec.Cmd

	mu   sync.Mutex // serialises lines to the watchdog
	pipe io.WriteCloser
}

// newSandbox creates a directory whose name contains name. stop is the signal
// (a name that kill(1) knows) that ends the processes inside when the sandbox
// is closed while they run; after 8 seconds they are killed.
func newSandbox(name, stop string) (*sandbox, error) {
	cred, err := credential()
	if err != nil {
		return nil, err
	}
	return newSandboxAs(cred, name, stop)
}

// newSandboxAs is newSandbox for processes of another user, nil for our own.
func newSandboxAs(cred *syscall.Credential, name, stop string) (s *sandbox, err error) {
	s = &sandbox{
		dir:  filepath.Join(os.TempDir(), "outboxd-"+name+"-"+strings.ToLower(rand.Text()[:10])),
		cred: cred,
	}
	s.watchdog = exec.Command("/bin/sh", "-c", watchdogScript, "watchdog", s.dir, stop)
	s.watchdog.Dir = "/"
	s.watchdog.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred}
	if s.pipe, err = s.watchdog.StdinPipe(); err != nil {
		return nil, fmt.Errorf("create watchdog pipe: %w", err)
	}
	out, err := s.watchdog.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("create watchdog pipe: %w", err)
	}
	s.watchdog.Stderr = s.watchdog.Stdout
	if err := s.watchdog.Start(); err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	answer, _ := bufio.NewReader(out).ReadString('\n')
	if answer != "ready\n" {
		return nil, errors.Join(
			fmt.Errorf("create directory %s: %s", s.dir, strings.TrimSpace(answer)),
			s.pipe.Close(), ignoreExit(s.watchdog.Wait()))
	}
	return s, nil
}

// close stops what runs in the sandbox and removes its directory. It returns
// when that is done. A second call does nothing.
func (s *sandbox) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipe == nil {
		return nil
	}
	err := s.pipe.Close()
	s.pipe = nil
	if err = errors.Join(err, s.watchdog.Wait()); err != nil {
		return fmt.Errorf("wait for the watchdog of %s: %w", s.dir, err)
	}
	if _, err := os.Lstat(s.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: it is still there", s.dir)
	}
	return nil
}

// tell tells the watchdog that a process has begun (+) or ended (-).
func (s *sandbox) tell(op string, pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipe == nil {
		return fmt.Errorf("use %s: %w", s.dir, os.ErrClosed)
	}
	_, err := fmt.Fprintln(s.pipe, op, pid)
	return err
}

// env is the environment of what runs in the sandbox: all that it writes by
// itself goes there too.
func (s *sandbox) env(more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir}, more...)
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}
