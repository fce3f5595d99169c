//go:build !embedded

package e2e_test

import (
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// Other servers with the same content: backups that were restored, and clones;
// upgraded clusters are in the tests that take longer.

func address(server *devenv.Postgres) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port()))
}

// at is the site on another server.
func (s *site) at(host string) *site {
	s.t.Helper()
	moved := *s
	for _, text := range []*string{&moved.admin, &moved.relay, &moved.app} {
		u, err := url.Parse(*text)
		if err != nil {
			s.t.Fatal(err)
		}
		u.Host = host
		*text = u.String()
	}
	return &moved
}

// moves makes services and relays use another server from now on.
func (f *faultRun) moves(server *devenv.Postgres) {
	f.t.Helper()
	f.site = f.site.at(address(server))
	f.load.Database = f.site.app
}

// onServer begins with a server of its own. emit is the share of transactions
// whose events are in no table.
func onServer(t *testing.T, version string, emit int, arrange func(*faultRun)) *faultRun {
	t.Helper()
	f := &faultRun{t: t, load: workload.Options{Seed: 1, Writers: 4, Keys: 20, MaxEvents: 50, Emit: emit, Pause: 5 * time.Millisecond}}
	f.begin(func(f *faultRun) {
		ownServer(version, nil)(f)
		if arrange != nil {
			arrange(f)
		}
	})
	t.Cleanup(func() { f.stopLoad() })
	return f
}

// more waits until the services have written more.
func (f *faultRun) more() {
	f.t.Helper()
	n := f.history.Committed() + underWay
	eventually(f.t, time.Minute, "events are written", func() bool { return f.history.Committed() >= n })
}

func (f *faultRun) stopServer() {
	f.t.Helper()
	if err := f.server.Stop(f.t.Context(), "fast"); err != nil {
		f.t.Fatal(err)
	}
}

func (f *faultRun) startServer() {
	f.t.Helper()
	if err := f.server.Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func shell(t *testing.T, script string, args ...string) {
	t.Helper()
	if out, err := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// mended does what the relay said when it stopped, while services write: adopt,
// replay, run.
func (f *faultRun) mended() {
	f.t.Helper()
	goOver(f.t, f.site, f.end, f.more)
	f.start().ready()
	f.more()
}

// judgedBy judges by what the server of the site has: what it lacks was
// committed elsewhere or forgotten, and all that came of it came before the
// replay.
func (f *faultRun) judgedBy(lacks bool, duplicates int) {
	f.t.Helper()
	f.stopLoad()
	written := f.history.Written()
	lacking := forget(written, ledger(f.t, f.site.admin))
	if lacks != (lacking > 0) {
		f.t.Errorf("the server lacks %d events: nothing was shown", lacking)
	}
	f.judged(f.conclude(written), duplicates, lacking)
}

// backup copies the stopped server, and returns when the broker has more than the
// copy.
func (f *faultRun) backup() (dir string) {
	f.t.Helper()
	f.quiet()
	f.stopServer()
	dir = f.t.TempDir()
	shell(f.t, `cp -a "$1"/. "$2"`, f.server.DataDir(), dir)
	f.startServer()
	f.startLoad()
	f.more()
	f.quiet()
	return dir
}

// restore puts a backup in the server's place.
func (f *faultRun) restore(backup string) {
	f.t.Helper()
	f.stopServer()
	shell(f.t, `rm -r "$1"/* && cp -a "$2"/. "$1"`, f.server.DataDir(), backup)
	f.startServer()
}

// TestRestoredBackup: a backup that is older than what was published takes the
// place of the database. What it lacks was published, and what is written from
// then on is too, though it uses the same LSNs again.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, version, code string
		slots               bool // are in the backup, as in a copy of all files
		emit                int
	}{
		{"with its slot, under a relay that lives", "17", "witness_changed", true, 20},
		{"without slots, as pg_basebackup makes it", "15", "slot_missing", false, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := onServer(t, row.version, row.emit, nil)
			backup := f.backup()
			if !row.slots {
				f.relay.stopped()
				shell(t, `rm -r "$1"/pg_replslot/*`, backup)
			}
			f.restore(backup)
			f.startLoad()
			if !row.slots {
				f.start()
			}
			f.stops(78, row.code, "outboxd adopt --pipeline "+f.site.pipeline)
			if !row.slots {
				f.mended()
				f.judgedBy(true, f.history.Committed())
				return
			}
			f.site.command("adopt", "--yes").expect(t, 0, "missing    nothing", "accepted", "epoch 2", "next       start the relay")
			f.start().ready()
			f.more()
			f.judgedBy(true, mostRepeated)
		})
	}
}

// TestPromotedClone: a standby is promoted while the primary goes on. It has no
// slot, so that a relay that is pointed at it does not publish what its own
// primary's relay publishes; once the services have moved there it goes on by
// the commands that it named.
func TestPromotedClone(t *testing.T) {
	t.Parallel()
	f := onServer(t, "16", 0, nil)
	clone, err := devenv.StartStandby(t.Context(), f.server, devenv.StandbyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = clone.Close() })
	if err := clone.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.more()
	f.site.at(address(clone)).gives(f.end.flags()...).expect(t, 78, "slot_missing", "everything up to", "outboxd adopt --pipeline "+f.site.pipeline)
	f.quiet()
	f.relay.stopped()
	f.moves(clone)
	f.startLoad()
	f.more()
	f.mended()
	f.judgedBy(true, f.history.Committed())
}

// TestCloneUnderTheSameName: the name of the database leads a relay that lives
// to a copy of all files, slot and witness among them. It publishes nothing of
// it, and goes on when the name is right again.
func TestCloneUnderTheSameName(t *testing.T) {
	t.Parallel()
	f := onServer(t, "17", 20, func(f *faultRun) {
		f.net = devtest.NewProxy(f.t, address(f.server))
		f.site.relay = f.site.at(f.net.Addr).relay
	})
	f.quiet()
	f.stopServer()
	clone, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Version: "17", Dir: f.server.DataDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = clone.Close() })
	f.startServer()
	f.startLoad()
	f.more()
	f.quiet()
	f.net.Lead(address(clone))
	f.net.Reset()
	f.stops(78, "witness_changed", "check that --database")
	f.start() // has no memory of the right one
	f.stops(78, "witness_changed", "check that --database")
	f.net.Lead(address(f.server))
	f.start().ready()
	f.startLoad()
	f.more()
	f.judged(f.finish(), mostRepeated, 0)
}
