//go:build !embedded

package e2e_test

import (
	"context"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/outbox"
)

func (f *faultRun) role() string        { return "relay_" + f.site.pipeline }
func (f *faultRun) publication() string { return "outboxd_" + f.site.pipeline }

func (f *faultRun) sessions() float64 { return f.relay.metric("outboxd_sessions_total") }

// terminate ends those backends of the relay's role that the condition selects.
func (f *faultRun) terminate(condition string) {
	f.t.Helper()
	f.site.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + f.role() + "' AND " + condition)
}

// again ends the session and waits for the next one.
func (f *faultRun) again(end func()) {
	f.t.Helper()
	before := f.sessions()
	end()
	eventually(f.t, 30*time.Second, "another session streams", func() bool { return f.sessions() > before && f.relay.metric("outboxd_streaming") == 1 })
}

// shortTimeout goes on with a wal_sender_timeout of 3 s.
func (f *faultRun) shortTimeout() {
	f.t.Helper()
	f.site.exec("ALTER ROLE " + f.role() + " SET wal_sender_timeout = '3s'")
	f.again(func() { f.terminate("true") })
	f.flows()
}

// signalWalsender sends a signal to the server process that the slot's stream
// comes from.
func (f *faultRun) signalWalsender(s syscall.Signal) (pid int) {
	f.t.Helper()
	pid, err := strconv.Atoi(f.site.value("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '" + f.site.slot() + "'"))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := syscall.Kill(pid, s); err != nil {
		f.t.Fatal(err)
	}
	return pid
}

// stops waits for the relay's end.
func (f *faultRun) stops(code int, words ...string) {
	f.t.Helper()
	if got := f.relay.wait(30 * time.Second); got != code {
		f.t.Errorf("exit code %d, want %d", got, code)
	}
	contains(f.t, f.relay.logged(), words...)
}

// gapOf breaks something that makes a gap, sees the relay stop with the code,
// mends it, and starts another one.
func (f *faultRun) gapOf(code, sql string, mend func()) {
	f.t.Helper()
	from := f.quiet()
	f.site.exec(sql)
	f.startLoad()
	f.stops(78, code, f.site.pipeline)
	f.stopLoad()
	mend()
	f.gap(from)
	f.start().ready()
	f.startLoad()
}

// setUpAgain is what the errors about a slot that is gone advise.
func (f *faultRun) setUpAgain() {
	f.t.Helper()
	flags := []string{"--database", f.site.admin, "--pipeline", f.site.pipeline}
	outboxd(f.t, append([]string{"teardown", "--yes"}, flags...)...).expect(f.t, 0, "dropped")
	outboxd(f.t, append([]string{"setup", "--relay-role", f.role(), "--app-role", "app_" + f.site.pipeline}, flags...)...).expect(f.t, 0, "created")
}

// adopt runs the SQL that mends the publication and accepts the gap.
func (f *faultRun) adopt(sql string) func() {
	return func() {
		f.t.Helper()
		f.site.exec(sql)
		outboxd(f.t, "adopt", "--database", f.site.relay, "--pipeline", f.site.pipeline, "--yes").expect(f.t, 0, "accepted")
	}
}

// undisturbed does something, which ends with the fault's being over, and which
// must not end the session.
func (f *faultRun) undisturbed(do func()) {
	f.t.Helper()
	before := f.sessions()
	do()
	f.healed()
	if n := f.sessions() - before; n != 0 {
		f.t.Errorf("%v sessions ended meanwhile", n)
	}
}

// undisturbed does that under f.undisturbed.
func undisturbed(inject func(*faultRun)) func(*faultRun) {
	return func(f *faultRun) { f.undisturbed(func() { inject(f) }) }
}

// leaveOpen writes an event in a transaction that is open while do runs, and
// then ended with the SQL.
func (f *faultRun) leaveOpen(do func(*pgx.Conn), end string) {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.site.app)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	event, written := f.event()
	if _, err := outbox.Write(f.t.Context(), tx, event); err != nil {
		f.t.Fatal(err)
	}
	do(conn)
	if f.end.seen(written.ID) {
		f.t.Error("the event came before its commit")
	}
	if _, err := conn.Exec(f.t.Context(), end); err != nil {
		f.t.Fatal(err)
	}
	f.history.Add([]checker.Written{written})
	f.arrives(written.ID)
}

// lock holds a lock while do runs.
func (f *faultRun) lock(sql string, do func()) {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.site.admin)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(f.t.Context(), "BEGIN; "+sql); err != nil {
		f.t.Fatal(err)
	}
	do()
	if _, err := conn.Exec(f.t.Context(), "ROLLBACK"); err != nil {
		f.t.Fatal(err)
	}
}
