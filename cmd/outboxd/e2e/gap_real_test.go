//go:build !embedded

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// dropHeldSlot drops a slot that a relay takes again and again.
const dropHeldSlot = `DO $$ BEGIN LOOP
	PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'SLOT';
	BEGIN PERFORM pg_drop_replication_slot('SLOT'); EXIT; EXCEPTION WHEN object_in_use THEN NULL; END;
END LOOP; END $$`

// TestGapsAreMended: whatever becomes of a slot while services write, the relay
// stops by name, and the commands that it prints lead to a history in which
// nothing is lost and every key is in order, to the last delivery.
func TestGapsAreMended(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version string // of PostgreSQL
		code    string
		// disturb stops the relay or makes it stop, and harms the slot.
		disturb func(s *site, r *relay)
	}{
		{"lost", "14", "slot_lost", func(s *site, r *relay) {
			r.stopped()
			eventually(s.t, time.Minute, "the slot is lost", func() bool {
				s.exec("SELECT pg_logical_emit_message(false, 'nobody', repeat('0123456789abcdef', 1000000))")
				s.exec("SELECT pg_switch_wal()")
				s.exec("CHECKPOINT")
				return s.value("SELECT wal_status FROM pg_replication_slots") == "lost"
			})
		}},
		{"dropped", "15", "slot_missing", func(s *site, r *relay) {
			r.stopped()
			s.exec("SELECT pg_drop_replication_slot('" + s.slot() + "')")
		}},
		{"dropped while running", "16", "slot_missing", func(s *site, r *relay) {
			s.exec(strings.ReplaceAll(dropHeldSlot, "SLOT", s.slot()))
			if code := r.wait(30 * time.Second); code != 78 {
				s.t.Errorf("exit code %d", code)
			}
		}},
		{"dropped for what it keeps", "16", "slot_missing", func(s *site, r *relay) {
			r.stopped()
			// A relay whose broker is away, while the server goes on.
			away := s.run("--broker", "kafka://127.0.0.1:1", "--max-retained-wal", "8MiB", "--max-retained-wal-action", "drop-slot")
			s.exec("SELECT pg_logical_emit_message(false, 'nobody', repeat('0123456789abcdef', 1000000))")
			if code := away.wait(time.Minute); code != 78 {
				s.t.Errorf("exit code %d", code)
			}
			contains(s.t, away.logged(), "slot_dropped", "more than the 8388608", "outboxd adopt --pipeline "+s.pipeline, "outboxd replay --pipeline "+s.pipeline)
			if got := s.audit(); !strings.Contains(got, "drop-slot relay_"+s.pipeline) {
				s.t.Errorf("audited: %s", got)
			}
		}},
		{"recreated", "17", "slot_foreign", func(s *site, r *relay) {
			r.stopped()
			s.exec("SELECT pg_drop_replication_slot('" + s.slot() + "')")
			<-time.After(500 * time.Millisecond) // for the writers
			s.exec("SELECT pg_create_logical_replication_slot('" + s.slot() + "', 'pgoutput')")
		}},
		{"advanced", "18", "slot_foreign", func(s *site, r *relay) {
			r.stopped()
			<-time.After(500 * time.Millisecond)
			s.exec("SELECT pg_replication_slot_advance('" + s.slot() + "', pg_current_wal_lsn())")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Version: tt.version, Settings: map[string]string{"max_slot_wal_keep_size": "32MB", "fsync": "off"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Close() })
			s, end := newSite(t, server.URL("postgres", "postgres")), newKafkaEnd(t, devtest.Kafka(t))
			load := mixed(s, end)
			load.Emit = 0 // what is not in the table cannot be replayed
			var h workload.History
			underLoad(t, load, &h, func() { mend(t, s, end, &h, tt.code, tt.disturb) })
			judge(t, &h, end, h.Committed()) // at worst everything comes twice: the floor is a minute old
		})
	}
}

// mend harms the slot under load and does what the relay then says.
func mend(t *testing.T, s *site, end *kafkaEnd, h *workload.History, code string, disturb func(*site, *relay)) {
	t.Helper()
	r := s.run(end.flags()...)
	r.ready()
	more := func() {
		t.Helper()
		n := h.Committed() + 300
		eventually(t, time.Minute, "events are written", func() bool { return h.Committed() >= n })
	}
	more()
	disturb(s, r)
	more()
	s.gives(end.flags()...).expect(t, 78, code, "outboxd adopt --pipeline "+s.pipeline, "outboxd replay --pipeline "+s.pipeline)
	goOver(t, s, end, more)
	again := s.run(end.flags()...)
	again.ready()
	more()
	if strings.Contains(again.logged(), "has not been replayed") {
		t.Errorf("the gap is still pending\n%s", again.logged())
	}
}

// goOver goes over a gap as errors say, while services write more.
func goOver(t *testing.T, s *site, end broker, more func()) {
	t.Helper()
	s.command("adopt", "--yes").expect(t, 0, "accepted", "outboxd replay --pipeline "+s.pipeline)
	more()
	outboxd(t, append([]string{"replay", "--database", s.relay, "--pipeline", s.pipeline, "--gap", "--log-format", "text"}, end.flags()...)...).expect(t, 0, "published")
	more()
}

// stopped stops the relay in good order.
func (r *relay) stopped() {
	r.t.Helper()
	if code := r.term(); code != 0 {
		r.t.Errorf("exit code %d after SIGTERM", code)
	}
}

// TestReplayIsResumed: what a replay prints when it stops leads to the rest.
func TestReplayIsResumed(t *testing.T) {
	t.Parallel()
	s, prefix := newSite(t, devtest.Database(t)), devtest.Name(t)
	const rows = 40_000 // more than can be in flight
	s.exec(fmt.Sprintf(`INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
		SELECT gen_random_uuid(), CASE n WHEN %d THEN 'invoice' ELSE 'order' END, n %% 100, 'placed', '{}' FROM generate_series(1, %[1]d) n`, rows))
	replay := func(flags ...string) (result, int) {
		args := []string{"replay", "--database", s.relay, "--pipeline", s.pipeline, "--log-format", "text",
			"--broker", "kafka://" + strings.Join(devtest.Kafka(t), ","), "--topic", prefix + ".{aggregatetype}"}
		r := outboxd(t, append(args, flags...)...)
		published := 0
		if _, err := fmt.Sscanf(r.stdout, "published %d", &published); err != nil {
			t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
		}
		return r, published
	}
	first, _ := replay("--id", s.value("SELECT id::text FROM outbox WHERE seq = 1"), "--create-topics")
	first.expect(t, 0, "published  1 records")
	stopped, some := replay("--since", "1h", "--fail-fast")
	stopped.expect(t, 69, "missing_topic", prefix+".invoice", "the same options and --resume ")
	_, resume, _ := strings.Cut(stopped.stderr, "--resume ")
	rest, more := replay("--since", "1h", "--create-topics", "--resume", strings.Fields(resume)[0])
	rest.expect(t, 0, fmt.Sprintf("seq %d", rows))
	if some == 0 || some+more < rows || some+more > rows+mostInFlight {
		t.Errorf("%d records, then %d; want %d, and what was in flight again", some, more, rows)
	}
}
