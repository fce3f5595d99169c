//go:build long && !embedded

package e2e_test

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLongMatrixPostgres holds the rows that take longer than make test should.
func TestLongMatrixPostgres(t *testing.T) {
	length := idleTime(t)
	name := fmt.Sprintf("idle for %g minutes, wal_sender_timeout ", length.Minutes())
	runMatrix(t, "PostgreSQL", []fault{
		{id: "F18", name: name + "5 s", how: "`ALTER ROLE … SET wal_sender_timeout`, others write",
			expect: "the session stays, the slot follows", inject: idle(length, "5s")},
		{id: "F18b", name: name + "0", how: "`ALTER ROLE … SET wal_sender_timeout`, others write",
			expect: "as F18", inject: idle(length, "0")},
		{id: "F18c", name: name + "60 s", how: "`ALTER ROLE … SET wal_sender_timeout`, others write",
			expect: "as F18", inject: idle(length, "60s")},
		{id: "F29c", name: "password changed while running", how: "`ALTER ROLE … PASSWORD`, sessions terminated, then changed back",
			expect: "`/readyz` says `authentication`; retried every 30 to 45 s", inject: func(f *faultRun) {
				f.site.exec("ALTER ROLE " + f.role() + " PASSWORD 'other-secret'")
				f.terminate("true")
				f.relay.says(http.StatusServiceUnavailable, "authentication")
				f.site.exec("ALTER ROLE " + f.role() + " PASSWORD 'relay-secret'")
			}},
		{id: "F29d", name: "rejected by pg_hba.conf while running", how: "a `reject` line for the relay's role, sessions terminated, then removed",
			expect: "as F29c", arrange: ownServer("", nil), inject: func(f *faultRun) {
				file := filepath.Join(f.server.DataDir(), "pg_hba.conf")
				before, err := os.ReadFile(file)
				if err != nil {
					f.t.Fatal(err)
				}
				f.allow(file, "host all "+f.role()+" all reject\n"+string(before))
				f.terminate("true")
				f.relay.says(http.StatusServiceUnavailable, "authentication")
				f.allow(file, string(before))
			}},
	})
}

// allow replaces pg_hba.conf.
func (f *faultRun) allow(file, text string) {
	f.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.site.exec("SELECT pg_reload_conf()")
}

// idleTime is how long the outbox stays idle: OUTBOXD_IDLE, ten minutes without
// it.
func idleTime(t *testing.T) time.Duration {
	text := cmp.Or(os.Getenv("OUTBOXD_IDLE"), "10m")
	length, err := time.ParseDuration(text)
	if err != nil || length <= 0 {
		t.Fatalf("OUTBOXD_IDLE=%s: want a duration above 0, as 10m", text)
	}
	return length
}

// idle writes no event for that long, and WAL of others now and then.
func idle(length time.Duration, timeout string) func(*faultRun) {
	return func(f *faultRun) {
		f.site.exec("ALTER ROLE " + f.role() + " SET wal_sender_timeout = '" + timeout + "'")
		f.again(func() { f.terminate("true") })
		f.quiet()
		f.undisturbed(func() {
			f.site.exec("CREATE TABLE busy (filler text)")
			for began := time.Now(); time.Since(began) < length; {
				f.site.exec("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
				target := f.site.value("SELECT pg_current_wal_lsn()::text")
				eventually(f.t, 2*time.Minute, "the slot follows", func() bool {
					return strings.HasPrefix(f.site.value("SELECT (confirmed_flush_lsn >= '"+target+"')::text FROM pg_replication_slots WHERE slot_name = '"+f.site.slot()+"'"), "t")
				})
			}
		})
	}
}
