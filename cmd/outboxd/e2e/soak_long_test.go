//go:build long && !embedded

package e2e_test

import (
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestSoak breaks things at random for as long as OUTBOXD_SOAK says, to Kafka or
// to RabbitMQ, and judges everything that happened. The seed decides which
// faults come in which order; the moments are the machine's.
func TestSoak(t *testing.T) {
	t.Run("Kafka", func(t *testing.T) {
		kafka, err := devenv.StartKafka(t.Context(), devenv.KafkaOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = kafka.Close() })
		// A client's idempotence outlives every fault of the broker.
		soak(t, kafka, newKafkaEnd(t, kafka.Brokers()), plagues(0))
	})
	t.Run("RabbitMQ", func(t *testing.T) {
		rabbit, err := devenv.StartRabbitMQ(t.Context(), devenv.RabbitMQOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = rabbit.Close() })
		soak(t, rabbit, newRabbitEnd(t, rabbit.URL()), append(plagues(mostInFlight),
			plague{"binding removed", func(s *soaking) { unbound(s.faultRun) }, mostInFlight},
			plague{"exchange deleted", func(s *soaking) { exchangeDeleted(s.faultRun) }, mostInFlight}))
	})
}

// plague is a fault of the soak: what it does, and what it may repeat.
type plague struct {
	name    string
	inject  func(*soaking)
	repeats int
}

// soaking is a soak under way.
type soaking struct {
	*faultRun
	broker node
	rng    *rand.Rand

	living *relay
	lived  int // faults, so far
}

// plagues are what can happen to a relay of a broker whose restart repeats so
// many events.
func plagues(restart int) []plague {
	return []plague{
		{"relay killed", func(s *soaking) { killed(s.faultRun) }, mostRepeated},
		{"relay stopped", (*soaking).stop, 0},
		{"relay frozen", (*soaking).freeze, mostInFlight},
		{"session terminated", func(s *soaking) { s.terminate("true") }, restart},
		{"server process of the stream frozen", (*soaking).freezeWalsender, mostInFlight},
		{"PostgreSQL stopped, fast", func(s *soaking) { s.restartDatabase("fast") }, restart},
		{"PostgreSQL crashed", func(s *soaking) { s.restartDatabase("immediate") }, restart},
		{"PostgreSQL cut off, no FIN", func(s *soaking) { s.silence(devtest.Wire{Frozen: true}, devtest.Wire{Frozen: true}) }, mostInFlight},
		{"PostgreSQL does not hear us", func(s *soaking) { s.silence(devtest.Wire{Frozen: true}, devtest.Wire{}) }, mostInFlight},
		{"PostgreSQL is not heard", func(s *soaking) { s.silence(devtest.Wire{}, devtest.Wire{Frozen: true}) }, mostInFlight},
		{"PostgreSQL far and slow", func(s *soaking) {
			s.silence(devtest.Wire{Delay: 50 * time.Millisecond, Rate: 64_000}, devtest.Wire{Rate: 64_000})
		}, restart},
		{"PostgreSQL reset within a message", (*soaking).cut, restart},
		{"broker stopped", func(s *soaking) { s.lose(byStop) }, restart},
		{"broker killed", func(s *soaking) { s.lose(byKill) }, restart},
		{"broker frozen", func(s *soaking) { s.lose(byFreeze) }, restart},
		{"large transaction", func(s *soaking) { s.commitMany(20_000) }, 0},
		{"transaction left open", func(s *soaking) { transactionLeftOpen(s.faultRun) }, 0},
		{"rows removed before they are published", func(s *soaking) { rowsRemoved(s.faultRun) }, 0},
		{"columns added, renamed and dropped", func(s *soaking) { columnsChanged(s.faultRun) }, 0},
		{"event table locked", func(s *soaking) { tableLocked(s.faultRun) }, 0},
		{"witness locked", func(s *soaking) { s.lock("LOCK TABLE outboxd.witness", func() { s.while(10 * time.Second) }) }, mostRepeated},
		{"slot held by another client", func(s *soaking) { heldSlot(s.faultRun) }, 0},
		{"no connection left for the role", func(s *soaking) { noConnectionForRole(s.faultRun) }, restart},
		{"role made read-only", func(s *soaking) { roleReadOnly(s.faultRun) }, restart},
		{"REPLICATION taken away", func(s *soaking) { replicationTakenAway(s.faultRun) }, mostRepeated},
		{"right on the witness taken away", func(s *soaking) { witnessTakenAway(s.faultRun) }, mostRepeated},
	}
}

func soak(t *testing.T, broker node, end matrixEnd, list []plague) {
	length, err := time.ParseDuration(os.Getenv("OUTBOXD_SOAK"))
	if err != nil {
		t.Fatalf("OUTBOXD_SOAK: %v", err)
	}
	seed := uint64(number(t, "OUTBOXD_SEED", 1))
	t.Logf("%s, seed %d", length, seed)
	f := &faultRun{t: t, stopLoad: func() {}, end: end}
	s := &soaking{faultRun: f, broker: broker, rng: rand.New(rand.NewPCG(seed, seed))}
	f.load = workload.Options{Seed: seed, Writers: 4, Keys: 20, MaxEvents: 50, Emit: 20, Pause: 40 * time.Millisecond}
	f.begin(s.arrange)
	defer func() { f.stopLoad() }()
	var (
		faults, repeats int
		used            usage
	)
	f.end.watch(f.site, func() {
		for over := time.Now().Add(length); time.Now().Before(over); faults++ {
			p := list[s.rng.IntN(len(list))]
			began := time.Now()
			p.inject(s)
			f.healed()
			repeats += p.repeats
			t.Logf("%4d %s: over after %s", faults, p.name, time.Since(began).Round(time.Millisecond))
			s.note(&used)
			<-time.After(time.Duration(s.rng.IntN(2000)) * time.Millisecond)
		}
	})
	v := f.finish()
	if !v.OK(repeats, repeats) {
		t.Errorf("at most %d duplicates allowed\n%s", repeats, v)
	}
	verdict, _, _ := strings.Cut(v.String(), "\n")
	t.Logf("%d faults, recovery %s at worst, %s", faults, f.recovery.Round(time.Millisecond), verdict)
	if f.peak() > maxRSS {
		t.Errorf("peak RSS %d MiB, %d allowed", f.peak()>>20, maxRSS>>20)
	}
	t.Log(&used)
	if used.grows() {
		t.Error("what a relay uses grows with the faults that it lives through")
	}
}

// arrange gives the soak a server of its own, behind a proxy.
func (s *soaking) arrange(f *faultRun) {
	f.t.Helper()
	ownServer("17", nil)(f)
	f.site.exec("ALTER ROLE " + f.role() + " SET wal_sender_timeout = '5s'")
	f.databaseBehindProxy()
}

// while returns after up to so long.
func (s *soaking) while(longest time.Duration) {
	<-time.After(time.Duration(s.rng.Int64N(int64(longest))))
}

func (s *soaking) stop() {
	if code := s.relay.term(); code != 0 {
		s.t.Errorf("exit code %d\n%s", code, s.relay.logged())
	}
	s.start()
}

func (s *soaking) freeze() {
	pid := s.relay.cmd.Process.Pid
	s.must(syscall.Kill(pid, syscall.SIGSTOP))
	s.while(10 * time.Second)
	s.must(syscall.Kill(pid, syscall.SIGCONT))
}

// freezeWalsender needs a session that streams.
func (s *soaking) freezeWalsender() {
	pid := s.signalWalsender(syscall.SIGSTOP)
	s.while(8 * time.Second)
	s.must(syscall.Kill(pid, syscall.SIGCONT))
}

func (s *soaking) restartDatabase(mode string) {
	s.must(s.server.Stop(s.t.Context(), mode))
	s.while(3 * time.Second)
	s.must(s.server.Start(s.t.Context()))
}

func (s *soaking) silence(up, down devtest.Wire) {
	s.net.Set(up, down)
	s.while(10 * time.Second)
	s.net.Set(devtest.Wire{}, devtest.Wire{})
}

func (s *soaking) cut() {
	s.net.CutAfter(s.rng.Int64N(20_000))
	eventually(s.t, 30*time.Second, "the connections are cut", s.net.Cut)
}

func (s *soaking) lose(o outage) {
	s.without(o, func() { s.while(8 * time.Second) }, s.broker)
}

// note adds what the relay uses after a fault.
func (s *soaking) note(u *usage) {
	r := s.relay
	if r != s.living {
		s.living, s.lived = r, 0
	}
	s.lived++
	u.add(s.lived, load{r.metric("go_memstats_heap_inuse_bytes"), r.metric("go_goroutines"), r.metric("process_open_fds")})
}
