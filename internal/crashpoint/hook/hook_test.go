package hook_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/outboxd/outboxd/internal/crashpoint/hook"
)

// TestReached runs itself as the process that is to die.
func TestReached(t *testing.T) {
	if os.Getenv(hook.NameVariable) != "" {
		hook.Reached("there")
		hook.Reached("here")
		hook.Reached("here")
		return
	}
	for hit, dies := range map[string]bool{"1": true, "2": true, "3": false, "": false} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReached$")
		cmd.Env = append(os.Environ(), hook.NameVariable+"=here", hook.HitVariable+"="+hit)
		out, _ := cmd.CombinedOutput()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if killed := status.Signaled() && status.Signal() == syscall.SIGKILL; killed != dies || dies != strings.Contains(string(out), hook.Line("here")) {
			t.Errorf("hit %q: %s, want dead %t\n%s", hit, cmd.ProcessState, dies, out)
		}
	}
}
