//go:build !embedded

package e2e_test

import (
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
)

// eachBroker runs a test with a leader and its standby, both of which publish
// to a broker under load; one event in four is of one of ten keys that all
// writers share.
func eachBroker(t *testing.T, test func(f *faultRun, leader, standby *relay)) {
	for name, arrange := range map[string]func(*faultRun){"Kafka": func(*faultRun) {}, "RabbitMQ": toRabbitMQ} {
		t.Run(name, func(t *testing.T) {
			f := &faultRun{t: t, load: workload.Options{Seed: 1, Writers: 8, Keys: 5, MaxEvents: 20, Emit: 20, Pause: 10 * time.Millisecond}}
			f.begin(arrange)
			defer func() { f.stopLoad() }()
			leader := f.relay
			standby := f.start()
			standby.says(http.StatusOK, "standby")
			roles(t, leader, standby)
			test(f, leader, standby)
		})
	}
}

// roles looks whether the metrics tell the one that leads from the one that
// waits.
func roles(t *testing.T, leads, waits *relay) {
	t.Helper()
	if l, w := leads.metric("outboxd_leader"), waits.metric("outboxd_leader"); l != 1 || w != 0 {
		t.Errorf("outboxd_leader is %v of the leader and %v of the standby", l, w)
	}
}

const published = "outboxd_events_published_total"

func (r *relay) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// takeover is how long a standby may take to publish once the server has given
// the slot back.
const takeover = 5 * time.Second

// takesOver waits until the relay of the run, which stood by since then,
// publishes.
func (f *faultRun) takesOver(since time.Time, limit time.Duration) {
	f.t.Helper()
	before := f.relay.metric(published)
	eventually(f.t, limit+30*time.Second, "the standby publishes", func() bool { return f.relay.metric(published) > before })
	took := time.Since(since)
	f.t.Logf("the standby published after %s", took.Round(time.Millisecond))
	if took > limit {
		f.t.Errorf("the takeover took %s, %s allowed", took, limit)
	}
	f.flows()
}

func TestTakeoverFromKilledLeader(t *testing.T) {
	eachBroker(t, func(f *faultRun, leader, _ *relay) {
		killed := time.Now()
		leader.kill()
		f.takesOver(killed, takeover)
		f.judged(f.finish(), mostRepeated, mostInFlight)
	})
}

// TestTakeoverFromFrozenLeader: the server takes the slot from a leader that is
// stopped in the middle. When it goes on, its lease has run out: it can add what
// each of its connections was about to write, no more, and then waits for its
// successor, and takes over from it.
func TestTakeoverFromFrozenLeader(t *testing.T) {
	const timeout = 3 * time.Second // see shortTimeout
	eachBroker(t, func(f *faultRun, leader, standby *relay) {
		f.relay = leader
		f.shortTimeout()
		standby.says(http.StatusOK, "standby")
		frozen := time.Now()
		leader.signal(syscall.SIGSTOP)
		f.relay = standby
		f.takesOver(frozen, timeout+takeover)
		leader.signal(syscall.SIGCONT)
		leader.says(http.StatusOK, "standby")
		roles(f.t, standby, leader)
		ended := time.Now()
		if code := standby.term(); code != 0 {
			f.t.Errorf("exit code %d after SIGTERM", code)
		}
		f.relay = leader
		f.takesOver(ended, takeover)
		f.judged(f.finish(), mostRepeated, 0)
	})
}

// TestTakeoverUnderOtherConfiguration: a standby whose leader was replaced by one
// that publishes something else must not take over from it.
func TestTakeoverUnderOtherConfiguration(t *testing.T) {
	eachBroker(t, func(f *faultRun, leader, standby *relay) {
		standby.signal(syscall.SIGSTOP)
		leader.term()
		f.start("--source", "/another").says(http.StatusOK, "streaming")
		standby.signal(syscall.SIGCONT)
		if code := standby.wait(30 * time.Second); code != 78 {
			f.t.Errorf("exit code %d, want 78", code)
		}
		contains(f.t, standby.logged(), "config_mismatch", "give both relays the same flags")
		f.judged(f.finish(), 0, 0)
	})
}
