package demo

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// guard kills a process when this program ends without having done so, also
// when it is killed itself: the kernel then closes our end of the pipe that the
// guard reads from.
type guard struct {
	cmd *exec.Cmd
}

func newGuard(pid int) (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", `read -r _; kill -9 "$0"`, strconv.Itoa(pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of Ctrl-C
	if _, err := cmd.StdinPipe(); err != nil {           // cmd keeps it open
		return nil, fmt.Errorf("start guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	return &guard{cmd}, nil
}

// dismiss ends the guard. It must not see the pipe close: the process has
// ended, and its id may be somebody else's.
func (g *guard) dismiss() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait() // says that it was killed
}
