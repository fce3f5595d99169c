//go:build !embedded

package e2e_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/crashpoint"
)

// crashing builds the program once, with the crash points in it.
var crashing = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		return "", err
	}
	overlay, err := crashpoint.Overlay(root, filepath.Join(scratch.Dir(), "crashpoints"))
	if err != nil {
		return "", err
	}
	name := filepath.Join(scratch.Dir(), "outboxd-crashing")
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", name, "..").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
})

// TestCrashPoints has relays die where it hurts most, one after the other, while
// writers go on. Then one lives.
func TestCrashPoints(t *testing.T) {
	if _, err := crashing(); err != nil {
		t.Fatal(err)
	}
	kafka := func(f *faultRun) { f.end = sharedBrokers["Kafka"](f.t).(matrixEnd) }
	rabbit := func(f *faultRun) { f.end = sharedBrokers["RabbitMQ"](f.t).(matrixEnd) }
	var rows []fault
	for i, c := range []crash{
		{point: crashpoint.Received, hits: []int{1, 300, 40}},
		{point: crashpoint.Published, hits: []int{1, 300, 40}},
		{point: crashpoint.Acked, hits: []int{1, 2}},
		{point: crashpoint.Witnessed, hits: []int{2, 1}},
		{point: crashpoint.Draining, hits: []int{1, 1, 1}, provoke: stopUnderWay},
		{point: crashpoint.Refused, hits: []int{1, 2, 1}},
		{point: crashpoint.Parked, hits: []int{1, 2, 1}},
		{point: crashpoint.Releasing, hits: []int{1, 6, 3}, provoke: retryParked},
	} {
		parks := c.point == crashpoint.Refused || c.point == crashpoint.Parked || c.point == crashpoint.Releasing
		if parks {
			rows = append(rows, c.parking(i, "", "Kafka", limitedKafka), c.parking(i, "b", "RabbitMQ", limitedRabbitMQ))
			continue
		}
		rows = append(rows, c.row(i, "", "Kafka", kafka, c.dies), c.row(i, "b", "RabbitMQ", rabbit, c.dies))
	}
	runMatrix(t, "Crash points", rows)
}

// crash is a place at which relays die.
type crash struct {
	point crashpoint.Point
	// hits has one number a relay: it dies when it comes by for so many times.
	hits []int
	// provoke has a relay come by; nil: the load does.
	provoke func(*faultRun)
}

// standstill is how long the last relay of a row stands still at the point before
// it dies: the witness is written and confirmed once a second.
const standstill = 1500 * time.Millisecond

// maxAttempts bounds how many relays are started for one that dies: some have
// nothing in flight when they are stopped.
const maxAttempts = 20

// row is c for one broker.
func (c crash) row(i int, letter, broker string, arrange, inject func(*faultRun)) fault {
	deaths := 1 + len(c.hits) // the relay of before is killed
	return fault{
		id:   fmt.Sprintf("C%d%s", i+1, letter),
		name: fmt.Sprintf("%s, to %s", c.point.When, broker),
		how:  fmt.Sprintf("SIGKILL of itself at that place, %d times; the last time everything else goes on there for %s before", len(c.hits), standstill), expect: "the next process goes on where the slot stands",
		duplicates: deaths * mostRepeated, stragglers: deaths * mostInFlight, arrange: arrange, inject: inject,
	}
}

// parking is c for a broker that refuses large events. In the end it takes them,
// and everything parked is handed back.
func (c crash) parking(i int, letter, broker string, open func(t *testing.T, low, high int) limited) fault {
	var end limited
	arrange := func(f *faultRun) {
		end = open(f.t, someRefused, noneRefused)
		f.end, f.flags = end.broker.(matrixEnd), end.args()
		f.load = workload.Options{Seed: 1, Writers: 2, Keys: 20, MaxEvents: 50, Emit: 20, Pause: 5 * time.Millisecond}
	}
	return c.row(i, letter, broker, arrange, func(f *faultRun) {
		eventually(f.t, time.Minute, "enough is parked", func() bool { return f.site.parkedEvents() > 20 })
		f.relay.kill()
		lift := func() {
			end.lift()
			f.flags = end.args()
		}
		if c.point == crashpoint.Releasing {
			lift()
			c.die(f)
		} else {
			c.die(f)
			lift()
		}
		f.start()
		f.healed()
		f.stopLoad()
		f.site.handedBack()
	})
}

// dies is c where nothing is parked.
func (c crash) dies(f *faultRun) {
	f.relay.kill()
	c.die(f)
	f.start()
	f.healed()
}

// die has relays die at the point.
func (c crash) die(f *faultRun) {
	for i, hit := range c.hits {
		hold := time.Duration(0)
		if i == len(c.hits)-1 {
			hold = standstill
		}
		attempts := 0
		for died := false; !died; attempts++ {
			if attempts == maxAttempts {
				f.t.Fatalf("%d relays ended without having come to the crash point %s", attempts, c.point.Name)
			}
			f.startCrashing(c.point.Env(hit, hold))
			if c.provoke != nil {
				c.provoke(f)
			}
			died = f.relay.diedAt(c.point)
		}
	}
}

// startCrashing starts a relay with a crash point that the variables arm.
func (f *faultRun) startCrashing(armed []string) {
	f.t.Helper()
	name, err := crashing()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := command(name, f.site.args(f.args()...)...)
	cmd.Env = append(cmd.Env, armed...)
	f.started(watched(f.t, cmd))
}

// diedAt waits for the end of a relay, and says whether it was at the point. It
// may have been a clean one instead, but nothing else.
func (r *relay) diedAt(p crashpoint.Point) bool {
	r.t.Helper()
	code := r.wait(30 * time.Second)
	status := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() && status.Signal() == syscall.SIGKILL && strings.Contains(r.logged(), p.Line()) {
		return true
	}
	if code != 0 {
		r.t.Fatalf("the relay ended with %s, and not at the crash point %s\n%s", r.cmd.ProcessState, p.Name, r.logged())
	}
	return false
}

// stopUnderWay stops the relay as soon as it publishes.
func stopUnderWay(f *faultRun) {
	eventually(f.t, time.Minute, "events flow", func() bool { return f.relay.metric("outboxd_events_published_total") > 0 })
	if err := f.relay.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.t.Fatal(err)
	}
}

// retryParked marks all that is parked. Relays that died may have left marks.
func retryParked(f *faultRun) { f.site.parked("retry", "--all") }
