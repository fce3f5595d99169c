// Package hook is what a crash point calls. Only programs that are built with
// crash points have it.
package hook

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// The variables that arm a crash point: its name, at which hit it kills, and for
// how long it stands still before.
const (
	NameVariable = "CRASH_POINT"
	HitVariable  = "CRASH_HIT"
	HoldVariable = "CRASH_HOLD"
)

var hits atomic.Int64

// Reached kills the process, as SIGKILL does, if the point of that name is armed
// and as many hits have come. If it stands still before, the other goroutines go
// on: what they should not do without this one, they do now. Safe for concurrent
// use.
func Reached(name string) {
	if os.Getenv(NameVariable) != name {
		return
	}
	hit, err := strconv.ParseInt(os.Getenv(HitVariable), 10, 64)
	if err != nil || hits.Add(1) != hit {
		return
	}
	fmt.Fprintln(os.Stderr, Line(name))
	if hold, err := time.ParseDuration(os.Getenv(HoldVariable)); err == nil {
		time.Sleep(hold)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // nothing more is done here while the signal is on its way
}

// Line is what the process says before it dies.
func Line(name string) string { return "crash point reached: " + name }
