//go:build !embedded

package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/crashpoint"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// crashing builds the program with the crash points in it, once.
var crashing = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch.Dir(), "crash")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		return "", err
	}
	overlay, err := crashpoint.Overlay(root, dir)
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "outboxd")
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", name, "..").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
})

// crashes is how often a relay dies at each point.
const crashes = 3

// TestCrashPoints: relays die where it would hurt most, again and again, while
// writers go on and some events are too large for the broker; then one relay
// lives, and everything is there.
func TestCrashPoints(t *testing.T) {
	if _, err := crashing(); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]func(*testing.T) limited{"Kafka": limitedKafka, "RabbitMQ": limitedRabbitMQ} {
		for _, p := range crashpoint.All() {
			t.Run(name+"/"+p.Name, func(t *testing.T) {
				t.Parallel()
				crashAt(t, p, b(t))
			})
		}
	}
}

func crashAt(t *testing.T, p crashpoint.Point, end limited) {
	s := newSite(t, devtest.Database(t))
	load := mixed(s, end)
	load.Writers = 2
	var h workload.History
	rng := rand.New(rand.NewPCG(1, 1))
	underLoad(t, load, &h, func() {
		if released := p.Name == "released" || p.Name == "settled"; released {
			s.parkSome(end)
		}
		for range crashes {
			hit := 1
			if p.Often {
				hit += rng.IntN(300)
			}
			s.crash(p, hit, end)
		}
	})
	end.lift()
	s.run(end.args()...).ready()
	s.handedBack()
	judgeKilled(t, &h, end, crashes*mostRepeated, crashes*mostInFlight)
}

// parkSome has events parked, and the broker take them from now on.
func (s *site) parkSome(end limited) {
	s.t.Helper()
	r := s.run(end.args()...)
	eventually(s.t, time.Minute, "something is parked", func() bool { return r.metric("outboxd_events_parked_total") > 20 })
	r.kill()
	end.lift()
}

// crash runs a relay until it dies at the point.
func (s *site) crash(p crashpoint.Point, hit int, end limited) {
	s.t.Helper()
	name, err := crashing()
	if err != nil {
		s.t.Fatal(err)
	}
	flags := append([]string{"run", "--metrics", "127.0.0.1:0", "--log-format", "text", "--database", s.relay, "--pipeline", s.pipeline}, end.args()...)
	cmd := exec.Command(name, flags...)
	cmd.Env = append(cleanEnv(), p.Env(hit)...)
	r := watched(s.t, cmd)
	switch p.Name {
	case "released", "settled":
		s.parked("retry", "--all")
	case "draining", "drained":
		eventually(s.t, time.Minute, "events flow", func() bool { return r.metric("outboxd_events_published_total") > 0 })
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	r.wait(time.Minute)
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		s.t.Errorf("the relay did not come by: %s\n%s", cmd.ProcessState, r.logged())
	}
}
