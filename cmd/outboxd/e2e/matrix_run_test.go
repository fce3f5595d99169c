//go:build !embedded

package e2e_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// faultRun is one run of a row.
type faultRun struct {
	t      *testing.T
	site   *site
	server *devenv.Postgres // where the row has one of its own
	net    *devtest.Proxy   // where the row breaks the network
	end    matrixEnd
	flags  []string // beside those of end
	load   workload.Options
	relay  *relay // the one started last

	history  workload.History
	relays   []*relay
	stopLoad func() // ends the writers and waits for them
	probes   int
	gaps     [][2]int // parts of the history that may be missing at the broker
	recovery time.Duration

	mu  sync.Mutex
	rss int64
}

// matrixEnd is the broker's end of a row.
type matrixEnd interface {
	broker
	// seen reports whether an event was among what was read. It is for the
	// reader, also from within done.
	seen(id string) bool
}

func (k *kafkaEnd) seen(id string) bool  { return k.consumer.Seen(id) }
func (r *rabbitEnd) seen(id string) bool { return r.consumer.Seen(id) }

// settled is how long the end of a row waits for records that should not come:
// all relays have ended by then, and the broker has what they published.
const settled = time.Second

// underWay is how many events are committed before something breaks.
const underWay = 300

// begin starts the relay and the writers, and returns when events flow.
func (f *faultRun) begin(arrange func(*faultRun)) {
	f.t.Helper()
	if arrange != nil {
		arrange(f)
	}
	if f.site == nil {
		f.site = newSite(f.t, devtest.Database(f.t))
	}
	if f.end == nil {
		f.end = newKafkaEnd(f.t, devtest.Kafka(f.t))
	}
	if f.load.Writers == 0 {
		f.load = workload.Options{Seed: 1, Writers: 4, Keys: 20, MaxEvents: 50, Emit: 20, Pause: 5 * time.Millisecond}
	}
	f.load.Database, f.load.Domain = f.site.app, f.end.domain
	f.watchMemory()
	if f.relay == nil {
		f.start().ready()
	}
	f.startLoad()
	eventually(f.t, time.Minute, "the writers are at work", func() bool { return f.history.Committed() >= underWay })
	f.flows()
}

// ownServer gives the row a PostgreSQL of its own.
func ownServer(version string, settings map[string]string) func(*faultRun) {
	return func(f *faultRun) {
		f.t.Helper()
		o := devenv.PostgresOptions{Version: version, Settings: map[string]string{"fsync": "off"}}
		maps.Copy(o.Settings, settings)
		server, err := devenv.StartPostgres(f.t.Context(), o)
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { _ = server.Close() })
		f.server, f.site = server, newSite(f.t, server.URL("postgres", "postgres"))
	}
}

// toRabbitMQ publishes to the shared RabbitMQ.
func toRabbitMQ(f *faultRun) {
	f.t.Helper()
	f.end = newRabbitEnd(f.t, devtest.RabbitMQ(f.t))
}

// start starts a relay with the flags of the row, and some more.
func (f *faultRun) start(more ...string) *relay {
	f.t.Helper()
	return f.started(f.site.run(append(f.args(), more...)...))
}

// args are the flags of the row.
func (f *faultRun) args() []string { return append(f.end.flags(), f.flags...) }

// started says that r is the relay now.
func (f *faultRun) started(r *relay) *relay {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.relay, f.relays = r, append(f.relays, r)
	return r
}

// startLoad starts the writers, which it must not find running.
func (f *faultRun) startLoad() {
	ctx, cancel := context.WithCancel(f.t.Context())
	result := make(chan error, 1)
	go func() { result <- workload.Run(ctx, f.load, &f.history) }()
	f.stopLoad = sync.OnceFunc(func() {
		cancel()
		if err := <-result; err != nil {
			f.t.Error(err)
		}
	})
}

// flows waits until an event that is written now has arrived.
func (f *faultRun) flows() {
	f.t.Helper()
	f.arrives(f.probe())
}

// healed says that the fault is over from now on. It waits for an event that is
// committed after it and notes how long that took, at worst.
func (f *faultRun) healed() {
	f.t.Helper()
	began := time.Now()
	f.flows()
	f.recovery = max(f.recovery, time.Since(began))
}

// probe commits one event and returns its id.
func (f *faultRun) probe() (id string) {
	f.t.Helper()
	eventually(f.t, time.Minute, "an event can be written", func() bool {
		event, written := f.event()
		if err := f.commit(event); err != nil {
			written.Outcome = checker.Unknown
		}
		f.history.Add([]checker.Written{written})
		id = written.ID
		return written.Outcome == checker.Committed
	})
	return id
}

// event is one of an aggregate of its own, and how the history has it once it
// is committed.
func (f *faultRun) event() (outbox.Event, checker.Written) {
	f.probes++
	key, payload := fmt.Sprintf("probe-%d", f.probes), []byte(`{"probe": true}`)
	e := outbox.Event{ID: outbox.NewID(), AggregateType: "order", AggregateID: key, Type: "order.probed", Payload: payload}
	return e, checker.Written{ID: e.ID.String(), Outcome: checker.Committed, Domain: f.end.domain("order", key), N: 1, Sum: sha256.Sum256(payload)}
}

// commit writes one event as the services' role.
func (f *faultRun) commit(event outbox.Event) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, f.site.app)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := outbox.Write(ctx, tx, event)
		return err
	})
}

// arrives waits until the event is with the broker.
func (f *faultRun) arrives(id string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 90*time.Second)
	defer cancel()
	f.end.read(ctx, func(int) bool { return f.end.seen(id) })
	if !f.end.seen(id) {
		_, ready := f.relay.get("/readyz")
		f.t.Fatalf("event %s did not arrive; readyz: %s", id, ready)
	}
}

// quiet ends the writers and waits until all that they committed has arrived:
// for faults that make a gap, before which nothing may be missing. It returns
// the place in the history.
func (f *faultRun) quiet() int {
	f.t.Helper()
	f.stopLoad()
	f.arrives(f.probe())
	f.await(f.history.Written())
	return len(f.history.Written())
}

// gap says that of what was written from a place in the history until now, any
// part may be missing: the relay named the gap, and somebody accepted it. Call
// it without load.
func (f *faultRun) gap(from int) { f.gaps = append(f.gaps, [2]int{from, len(f.history.Written())}) }

// finish ends load and relays, in good order, and judges.
func (f *faultRun) finish() *checker.Verdict {
	f.t.Helper()
	f.stopLoad()
	written := f.history.Written()
	for _, g := range f.gaps {
		for i := g[0]; i < g[1]; i++ {
			// Also a part of a transaction: messages come where rows do not.
			if written[i].Outcome == checker.Committed {
				written[i].Outcome, written[i].Tx = checker.Unknown, ""
			}
		}
	}
	return f.conclude(written)
}

// conclude waits for what was written, ends the relays and judges.
func (f *faultRun) conclude(written []checker.Written) *checker.Verdict {
	f.t.Helper()
	f.await(written)
	for _, r := range f.relays {
		f.stopRelay(r)
	}
	// Whatever happens to these events, nothing is wrong with any of them.
	if parked := f.site.value("SELECT coalesce(string_agg(DISTINCT reason || ': ' || detail, ', '), '') FROM outboxd.parked"); parked != "" {
		f.t.Errorf("the fault parked events: %s", parked)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), settled)
	defer cancel()
	return checker.Judge(written, f.end.read(ctx, func(int) bool { return false }), f.end.sampled()...)
}

// await waits until as many events have arrived as are surely committed.
func (f *faultRun) await(written []checker.Written) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 90*time.Second)
	defer cancel()
	f.end.read(ctx, func(int) bool {
		for len(written) > 0 && (written[0].Outcome != checker.Committed || f.end.seen(written[0].ID)) {
			written = written[1:]
		}
		return len(written) == 0
	})
}

// stopRelay stops a relay that still runs, which must be clean after any fault.
func (f *faultRun) stopRelay(r *relay) {
	f.t.Helper()
	select {
	case <-r.exited:
		return
	default:
	}
	if n := r.metric("outboxd_invariant_violations_total"); n != 0 {
		f.t.Errorf("the relay counts %v broken invariants", n)
	}
	if code := r.term(); code != 0 {
		f.t.Errorf("exit code %d after SIGTERM", code)
	}
}

// watchMemory notes the largest resident set of the run's relays until the test
// ends.
func (f *faultRun) watchMemory() {
	tick := time.NewTicker(100 * time.Millisecond)
	f.t.Cleanup(tick.Stop)
	go func() {
		for {
			select {
			case <-f.t.Context().Done():
				return
			case <-tick.C:
			}
			f.mu.Lock()
			for _, r := range f.relays {
				select {
				case <-r.exited: // its number may be another process's by now
				default:
					f.rss = max(f.rss, peakRSS(r.cmd.Process.Pid))
				}
			}
			f.mu.Unlock()
		}
	}()
}

func (f *faultRun) peak() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rss
}

// peakRSS returns the largest resident set of a process so far, in bytes; 0
// when it has ended.
func peakRSS(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	return 0
}
