//go:build !embedded

package e2e_test

import (
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
)

// eachBroker runs a test for each broker.
func eachBroker(t *testing.T, test func(*faultRun)) {
	for name, arrange := range map[string]func(*faultRun){"Kafka": func(*faultRun) {}, "RabbitMQ": toRabbitMQ} {
		t.Run(name, func(t *testing.T) {
			f := &faultRun{t: t}
			arrange(f)
			test(f)
		})
	}
}

// beginTwo starts a leader and its standby, both with a wal_sender_timeout of
// 3 s, and a load of few keys: one event in ten is of one of ten keys that all
// writers share.
func (f *faultRun) beginTwo() (leader, standby *relay) {
	f.t.Helper()
	f.load = workload.Options{Seed: 1, Writers: 8, Keys: 5, MaxEvents: 20, Emit: 20, Pause: 10 * time.Millisecond}
	f.begin((*faultRun).shortTimeoutFromStart)
	f.t.Cleanup(func() { f.stopLoad() })
	leader = f.relay
	standby = f.start()
	standby.says(http.StatusOK, "standby")
	roles(f.t, leader, standby)
	return leader, standby
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
	eachBroker(t, func(f *faultRun) {
		leader, _ := f.beginTwo()
		killed := time.Now()
		leader.kill()
		f.takesOver(killed, takeover)
		f.judged(f.finish(), mostRepeated, mostInFlight)
	})
}

// lastWrites is how much a leader may add that was stopped between the look at
// its lease and the write behind it: seldom anything. Without the lease it adds
// all that it held, which makes 30 stragglers and more here.
const lastWrites = 10

// TestTakeoverFromFrozenLeader: the server takes the slot from a leader that is
// stopped in the middle. When it goes on, its lease has run out: it can add what
// each of its connections was about to write, no more, and then waits for its
// successor, and takes over from it.
func TestTakeoverFromFrozenLeader(t *testing.T) {
	const timeout = 3 * time.Second
	eachBroker(t, func(f *faultRun) {
		leader, standby := f.beginTwo()
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
		f.judged(f.finish(), mostRepeated, lastWrites)
	})
}

// TestTakeoverWithBytesOnTheirWay: the broker hangs before the leader does, so
// that the leader's kernel holds what it has written. That comes beside the work
// of the successor, and nothing else: at most what was in flight.
func TestTakeoverWithBytesOnTheirWay(t *testing.T) {
	for name, start := range map[string]func(*faultRun) freezer{"Kafka": ownKafka, "RabbitMQ": ownRabbitMQ} {
		t.Run(name, func(t *testing.T) {
			f := &faultRun{t: t}
			server := start(f)
			leader, standby := f.beginTwo()
			if err := server.Freeze(); err != nil {
				t.Fatal(err)
			}
			before := f.history.Committed()
			eventually(t, time.Minute, "events are in flight", func() bool { return f.history.Committed() > before+underWay })
			inFlight := int(leader.metric("outboxd_inflight_events"))
			leader.signal(syscall.SIGSTOP)
			eventually(t, time.Minute, "the standby has the slot", func() bool { return standby.metric("outboxd_leader") == 1 })
			if err := server.Thaw(); err != nil {
				t.Fatal(err)
			}
			leader.signal(syscall.SIGCONT)
			leader.says(http.StatusOK, "standby")
			f.flows()
			t.Logf("%d events were in flight", inFlight)
			f.judged(f.finish(), mostRepeated, inFlight)
		})
	}
}

// freezer is a service that can be stopped in the middle.
type freezer interface {
	Freeze() error
	Thaw() error
}

func ownKafka(f *faultRun) freezer {
	f.t.Helper()
	kafka, err := devenv.StartKafka(f.t.Context(), devenv.KafkaOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = kafka.Close() })
	f.end = newKafkaEnd(f.t, kafka.Brokers())
	return kafka
}

func ownRabbitMQ(f *faultRun) freezer {
	f.t.Helper()
	rabbit, err := devenv.StartRabbitMQ(f.t.Context(), devenv.RabbitMQOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = rabbit.Close() })
	f.end = newRabbitEnd(f.t, rabbit.URL())
	return rabbit
}

// TestTakeoverUnderOtherConfiguration: a standby whose leader was replaced by one
// that publishes something else must not take over from it.
func TestTakeoverUnderOtherConfiguration(t *testing.T) {
	eachBroker(t, func(f *faultRun) {
		leader, standby := f.beginTwo()
		standby.signal(syscall.SIGSTOP)
		leader.term()
		f.start("--source", "/another").says(http.StatusOK, "streaming")
		standby.signal(syscall.SIGCONT)
		if code := standby.wait(30 * time.Second); code != 78 {
			f.t.Errorf("exit code %d, want 78", code)
		}
		contains(f.t, standby.logged(), "config_mismatch", "give both relays the same flags")
		// A transaction that was acked in part is published whole: its ordinals
		// may count other events now.
		const transaction = 30
		f.judged(f.finish(), transaction, 0)
	})
}
