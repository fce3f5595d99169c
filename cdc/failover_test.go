package cdc_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/internal/devenv"
)

// ownServer starts a server for this test alone.
func ownServer(t *testing.T, settings map[string]string) (*devenv.Postgres, *fixture) {
	t.Helper()
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server, fixtureAt(t, server.URL("postgres", "postgres"))
}

// redial connects the fixture again after its server was away.
func (f *fixture) redial() {
	f.t.Helper()
	_ = f.conn.Close(context.Background())
	conn, err := pgx.Connect(context.Background(), f.cfg.Database)
	if err != nil {
		f.t.Fatal(err)
	}
	f.conn = conn
}

// promote starts the stopped server as a standby of nobody and promotes it:
// what remains of that is a new timeline.
func promote(t *testing.T, server *devenv.Postgres, f *fixture) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(server.DataDir(), "standby.signal"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.redial()
	f.exec("SELECT pg_promote()")
	f.exec("CHECKPOINT")
}

func stop(t *testing.T, server *devenv.Postgres) {
	t.Helper()
	if err := server.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
}

func shell(t *testing.T, script string, args ...string) {
	t.Helper()
	if out, err := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// A new timeline alone is no gap, for a relay that lived through it and for a
// new one, and nothing that was acked comes again.
func TestNewTimelineIsNoGap(t *testing.T) {
	for name, lives := range map[string]bool{"same process": true, "new process": false} {
		t.Run(name, func(t *testing.T) {
			server, f := ownServer(t, nil)
			r := f.reader()
			s := f.session(r)
			f.exec("INSERT INTO outbox SELECT generate_series(1, 3)")
			ackAll(r, s.take(3)[:2])
			s.close()
			stop(t, server)
			promote(t, server, f)
			f.exec("INSERT INTO outbox VALUES (4)")
			if !lives {
				r = f.reader()
			}
			s = f.session(r)
			events := s.take(2)
			if got := ids(events); got != "3 4" || events[0].Position.Epoch != 2 {
				t.Errorf("got %s, the first at %s; want 3 4 in epoch 2", got, events[0].Position)
			}
			ackAll(r, events)
			s.close()
			f.session(f.reader()).close()
		})
	}
}

// After an asynchronous failover the new primary lacks what was published last,
// and uses its LSNs for other transactions: none of those may be taken for one
// that was published, and the older witness there is no restored database.
func TestLSNsUsedAgainAfterFailover(t *testing.T) {
	for name, lives := range map[string]bool{"same process": true, "new process": false} {
		t.Run(name, func(t *testing.T) {
			server, f := ownServer(t, nil)
			r := f.led(1)
			stop(t, server)
			standby := filepath.Join(t.TempDir(), "standby")
			shell(t, `cp -a "$1" "$2"`, server.DataDir(), standby)
			if err := server.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.redial()
			s := f.session(r)
			f.exec("INSERT INTO outbox SELECT 2, repeat('x', 100) FROM generate_series(1, 9000)") // never reaches the standby
			ackAll(r, s.take(9000))
			s.close()
			stop(t, server)
			shell(t, `rm -rf "$1"/* && cp -a "$2"/. "$1"`, server.DataDir(), standby)
			promote(t, server, f)
			f.exec("INSERT INTO outbox VALUES (3)")
			if !lives {
				r = f.reader()
			}
			s = f.session(r)
			events := s.take(1)
			if events[0].id != "3" || events[0].Position.Epoch != 2 {
				t.Errorf("got %s at %s, want 3 in epoch 2", events[0].id, events[0].Position)
			}
			ackAll(r, events)
			s.close()
		})
	}
}

// A slot that somebody made on the standby is no copy of the primary's: where it
// stands says nothing of what was published.
func TestHandMadeSlotOfPromotedStandbyIsNotBelieved(t *testing.T) {
	for name, lives := range map[string]bool{"same process": true, "new process": false} {
		t.Run(name, func(t *testing.T) {
			server, f := ownServer(t, nil)
			r := f.led(1)
			f.free()
			f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
			f.exec("INSERT INTO outbox VALUES (2)")
			f.createSlot()
			stop(t, server)
			promote(t, server, f)
			if !lives {
				r = f.reader()
			}
			stream, err := r.Open(t.Context())
			if err == nil {
				_ = stream.Close(context.Background())
				t.Fatal("a session opened behind an event that was never published")
			}
			wantCode(t, err, cdc.CodeSlotForeign)
		})
	}
}

// What was acked behind an event that was not is not published again by a relay
// that lived through the failover, also when the answer to its last witness was
// lost.
func TestFailoverKeepsWhatIsAckedAhead(t *testing.T) {
	server, f := ownServer(t, nil)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox SELECT generate_series(1, 4)")
	events := s.take(4)
	ackAll(r, append(events[:1:1], events[2]))
	s.close()
	f.exec("UPDATE outboxd.witness SET version = version + 1")
	stop(t, server)
	promote(t, server, f)
	s = f.session(r)
	if got := ids(s.take(2)); got != "2 4" {
		t.Errorf("got %s, want 2 4", got)
	}
	s.close()
}

// The old primary comes back with the witness as it was left, and takes writes. A
// process that has followed the failover knows better.
func TestFormerPrimaryIsRefused(t *testing.T) {
	server, f := ownServer(t, nil)
	r := f.led(1)
	stop(t, server)
	former := filepath.Join(t.TempDir(), "former")
	shell(t, `cp -a "$1" "$2"`, server.DataDir(), former)
	promote(t, server, f)
	f.exec("INSERT INTO outbox VALUES (2)")
	s := f.session(r)
	ackAll(r, s.take(1))
	s.close()
	stop(t, server)
	shell(t, `rm -rf "$1"/* && cp -a "$2"/. "$1"`, server.DataDir(), former)
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream, err := r.Open(t.Context())
	if err == nil {
		_ = stream.Close(context.Background())
		t.Fatal("a session opened on the former primary")
	}
	e := wantCode(t, err, cdc.CodeNotPrimary)
	// The fix names what the server does not know: an epoch behind it was never
	// published.
	_, last, _ := strings.Cut(e.Fix, "--published ")
	published, err := cdc.ParsePosition(last)
	if err != nil {
		t.Fatalf("fix %q: %v", e.Fix, err)
	}
	f.redial()
	if gap, err := cdc.FindGap(t.Context(), f.cfg, published); err != nil || gap.Epoch != 3 || !gap.Complete {
		t.Errorf("gap %+v, %v; want a complete one that begins epoch 3", gap, err)
	}
}

// Where commits would wait for the relay as for a standby, it does not stream: a
// commit would wait for the broker, and that of the witness for itself.
func TestNoSessionWhereCommitsWaitForIt(t *testing.T) {
	_, f := ownServer(t, nil)
	r := f.led(1)
	set := func(sql string, shows string) {
		t.Helper()
		f.exec(sql)
		f.exec("SELECT pg_reload_conf()")
		eventually(t, witnessLimit, "the setting is in force", func() bool { return f.value("SHOW synchronous_standby_names") == shows })
	}
	set("ALTER SYSTEM SET synchronous_standby_names = '*'", "*")
	if e := f.refuses(cdc.CodeSyncStandby); !strings.Contains(e.Fix, "application_name") {
		t.Errorf("fix %q", e.Fix)
	}
	set("ALTER SYSTEM RESET synchronous_standby_names", "")
	f.session(r).close()
}

// The witness is durable also where commits are not, by default.
func TestWitnessSurvivesCrashWithAsynchronousCommits(t *testing.T) {
	server, f := ownServer(t, map[string]string{"synchronous_commit": "off", "wal_writer_delay": "10s"})
	f.exec("SET synchronous_commit = on")
	f.exec("CHECKPOINT")
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox VALUES (1)")
	ackAll(r, s.take(1))
	eventually(t, witnessLimit, "the witness is written", func() bool { return f.value("SELECT acked_events::text FROM outboxd.witness") == "1" })
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.result
	_ = s.stream.Close(context.Background())
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.redial()
	if got := f.value("SELECT acked_events::text FROM outboxd.witness"); got != "1" {
		t.Errorf("after the crash the witness says %s acked events", got)
	}
	f.session(r).close()
}
