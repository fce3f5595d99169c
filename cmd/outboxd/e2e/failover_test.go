//go:build !embedded

package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
)

// pair is a primary with a physical standby.
type pair struct {
	t                *testing.T
	primary, standby *devenv.Postgres
}

// newPair gives the row a pair whose slot exists already. The roles of the site
// then know both servers, and ask for the one that can be written to.
func newPair(f *faultRun, version string, o devenv.StandbyOptions) *pair {
	f.t.Helper()
	// fsync stays on: a standby takes what is flushed, and a slot is.
	primary, err := devenv.StartPostgres(f.t.Context(), devenv.PostgresOptions{Version: version})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = primary.Close() })
	f.site = newSite(f.t, primary.URL("postgres", "postgres"))
	standby, err := devenv.StartStandby(f.t.Context(), primary, o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = standby.Close() })
	for _, url := range []*string{&f.site.admin, &f.site.relay, &f.site.app} {
		one := fmt.Sprintf("127.0.0.1:%d", primary.Port())
		*url = strings.Replace(*url, one, fmt.Sprintf("%s,127.0.0.1:%d", one, standby.Port()), 1) + "&target_session_attrs=read-write"
	}
	return &pair{f.t, primary, standby}
}

// ask runs a query that returns one text on one of the two.
func (p *pair) ask(server *devenv.Postgres, sql string) string {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), server.URL("postgres", "postgres"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var text string
	if err := conn.QueryRow(p.t.Context(), sql).Scan(&text); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// synced waits until the slot would survive: the standby has a copy that is not
// temporary any more. Snapshots in the WAL let it get there; the primary writes
// one every 15 s by itself.
func (p *pair) synced(slot string) {
	p.t.Helper()
	eventually(p.t, 90*time.Second, "the slot is synchronised to the standby", func() bool {
		p.ask(p.primary, "SELECT pg_log_standby_snapshot()::text")
		return p.ask(p.standby, "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = '"+slot+"' AND synced AND NOT temporary AND invalidation_reason IS NULL") == "1"
	})
}

// cutOff ends the standby's streaming: what commits from now on it never has.
func (p *pair) cutOff() {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.standby.URL("postgres", "postgres"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{"ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(p.t.Context(), sql); err != nil {
			p.t.Fatalf("%s: %v", sql, err)
		}
	}
	eventually(p.t, time.Minute, "the standby streams no more", func() bool {
		return p.ask(p.primary, "SELECT count(*)::text FROM pg_stat_replication WHERE application_name = 'standby'") == "0"
	})
}

func (p *pair) promote() {
	p.t.Helper()
	if err := p.standby.Promote(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) kill() {
	p.t.Helper()
	if err := p.primary.Kill(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) shutDown() {
	p.t.Helper()
	if err := p.primary.Stop(p.t.Context(), "fast"); err != nil {
		p.t.Fatal(err)
	}
}

// failsOver waits until an event that was committed on the new primary has
// arrived, looks at its position, and ends the load when there was enough of it:
// a new epoch has begun.
func (f *faultRun) failsOver() {
	f.t.Helper()
	promoted := time.Now()
	id := f.probe()
	f.arrives(id)
	f.t.Logf("an event of the new primary arrived %s after its promotion", time.Since(promoted).Round(time.Millisecond))
	before := f.history.Committed()
	eventually(f.t, time.Minute, "the writers are at work again", func() bool { return f.history.Committed() >= before+underWay })
	f.stopLoad()
	now, cancel := context.WithCancel(f.t.Context())
	cancel()
	for _, d := range f.end.read(now, func(int) bool { return true }) {
		if d.ID == id && !strings.HasPrefix(d.Position, "0002.") {
			f.t.Errorf("the event has the position %s, which is not in epoch 2", d.Position)
		}
	}
}

// judged fails the test if the verdict is not good.
func (f *faultRun) judged(v *checker.Verdict, duplicates, stragglers int) {
	f.t.Helper()
	if !v.OK(duplicates, stragglers) {
		f.t.Errorf("at most %d duplicates and %d stragglers allowed\n%s", duplicates, stragglers, v)
		return
	}
	first, _, _ := strings.Cut(v.String(), "\n")
	f.t.Log(first)
}

// TestFailover loses the primary under load. The standby had everything that
// was committed, and the slot; the relay goes on by itself, and knows what was
// acked. A relay that starts now knows only what its witness said a second
// before.
func TestFailover(t *testing.T) {
	for _, row := range []struct {
		name, version          string
		end                    func(*faultRun)
		lose                   func(*pair)
		relayToo               bool
		duplicates, stragglers int
	}{
		{name: "killed, 17, to Kafka", version: "17", lose: (*pair).kill},
		{name: "killed, 18, to RabbitMQ", version: "18", end: toRabbitMQ, lose: (*pair).kill},
		{name: "shut down, 17, to RabbitMQ", version: "17", end: toRabbitMQ, lose: (*pair).shutDown},
		{name: "shut down, 18, to Kafka", version: "18", lose: (*pair).shutDown},
		{name: "killed with the relay, 17, to RabbitMQ", version: "17", end: toRabbitMQ, lose: (*pair).kill,
			relayToo: true, duplicates: mostRepeated, stragglers: mostInFlight},
		{name: "killed with the relay, 18, to Kafka", version: "18", lose: (*pair).kill,
			relayToo: true, duplicates: mostRepeated, stragglers: mostInFlight},
	} {
		t.Run(row.name, func(t *testing.T) {
			var p *pair
			f := &faultRun{t: t}
			f.begin(func(f *faultRun) {
				p = newPair(f, row.version, devenv.StandbyOptions{Synchronous: true})
				if row.end != nil {
					row.end(f)
				}
			})
			defer func() { f.stopLoad() }()
			p.synced(f.site.slot())
			f.flows()
			row.lose(p)
			if row.relayToo {
				f.relay.kill()
				f.start()
			}
			f.relay.says(http.StatusServiceUnavailable, "database_unreachable")
			p.promote()
			f.failsOver()
			if err := f.history.Resolve(t.Context(), f.site.app); err != nil {
				t.Fatal(err)
			}
			f.judged(f.finish(), row.duplicates, row.stragglers)
		})
	}
}

// TestFailoverWithParkedEvents loses the primary and the relay while events are
// parked. What the server sends again in the next epoch is not parked twice, and
// every key is handed back.
func TestFailoverWithParkedEvents(t *testing.T) {
	var p *pair
	end := limitedKafka(t, someRefused, noneRefused)
	f := &faultRun{t: t, end: end.broker.(matrixEnd), flags: end.args()}
	f.begin(func(f *faultRun) { p = newPair(f, "18", devenv.StandbyOptions{Synchronous: true}) })
	defer func() { f.stopLoad() }()
	p.synced(f.site.slot())
	eventually(t, time.Minute, "enough is parked", func() bool { return f.site.parkedEvents() > 20 })
	p.kill()
	f.relay.kill()
	f.start()
	f.relay.says(http.StatusServiceUnavailable, "database_unreachable")
	p.promote()
	f.failsOver()
	if twice := f.site.value("SELECT coalesce(string_agg(convert_from(id, 'UTF8'), ' '), '') FROM (SELECT id FROM outboxd.parked GROUP BY id HAVING count(*) > 1) twice"); twice != "" {
		t.Errorf("parked twice: %s", twice)
	}
	end.lift()
	f.site.handedBack()
	if err := f.history.Resolve(t.Context(), f.site.app); err != nil {
		t.Fatal(err)
	}
	f.judged(f.finish(), mostRepeated, mostInFlight)
}

// TestAsynchronousFailover: the new primary lacks transactions that were
// committed, and published, last, and uses their LSNs for others. Those are
// published; of what it lacks, anything may have been.
func TestAsynchronousFailover(t *testing.T) {
	var p *pair
	f := &faultRun{t: t}
	f.begin(func(f *faultRun) { p = newPair(f, "17", devenv.StandbyOptions{}) })
	defer func() { f.stopLoad() }()
	p.synced(f.site.slot())
	p.cutOff()
	before := f.history.Committed()
	eventually(t, time.Minute, "the standby lacks transactions", func() bool { return f.history.Committed() > before+underWay })
	f.flows()
	p.kill()
	p.promote()
	f.failsOver()
	written := f.history.Written()
	lacking := forget(written, ledger(t, p.standby.URL("postgres", "postgres")))
	if lacking == 0 {
		t.Error("the new primary has every transaction: nothing was shown")
	}
	t.Logf("%d committed events the new primary never had", lacking)
	f.judged(f.conclude(written), 0, 0)
}

// ledger is the set of transactions that a database has.
func ledger(t *testing.T, database string) map[string]bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), "SELECT tx::text FROM "+workload.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, tx := range all {
		has[tx] = true
	}
	return has
}

// forget makes what was written by a transaction that the server never had, or
// forgot, an event of which nothing is known: it may have been published alone, or not.
// It returns how many of those were committed for sure.
func forget(written []checker.Written, has map[string]bool) (committed int) {
	for i := range written {
		w := &written[i]
		switch {
		case w.Tx == "" || w.Outcome == checker.RolledBack:
		case has[w.Tx]:
			w.Outcome = checker.Committed
		default:
			if w.Outcome == checker.Committed {
				committed++
			}
			w.Outcome, w.Tx = checker.Unknown, ""
		}
	}
	return committed
}

// TestFailoverWithoutSlot: where the new primary does not have the slot there
// is a gap, which the relay names and does not pass.
func TestFailoverWithoutSlot(t *testing.T) {
	for name, row := range map[string]struct {
		version  string
		settings map[string]string
	}{
		"14":                   {"14", nil},
		"16":                   {"16", nil},
		"17, not synchronised": {"17", map[string]string{"sync_replication_slots": "off"}},
	} {
		t.Run(name, func(t *testing.T) {
			var p *pair
			f := &faultRun{t: t}
			f.begin(func(f *faultRun) { p = newPair(f, row.version, devenv.StandbyOptions{Settings: row.settings}) })
			defer func() { f.stopLoad() }()
			p.kill()
			p.promote()
			f.stops(78, "slot_missing", f.site.slot(), "everything up to", "outboxd adopt", "outboxd replay")
		})
	}
}

// TestStandbyAway: the primary holds back what its standby does not have. The
// relay says so, does not stop, and goes on when the standby is back: also when
// its connection stood all the time, of which the primary says nothing.
func TestStandbyAway(t *testing.T) {
	for _, version := range []string{"17", "18"} {
		t.Run(version, func(t *testing.T) {
			var p *pair
			f := &faultRun{t: t}
			f.begin(func(f *faultRun) { p = newPair(f, version, devenv.StandbyOptions{Synchronous: true}) })
			defer func() { f.stopLoad() }()
			f.site.exec("ALTER SYSTEM RESET synchronous_standby_names")
			f.site.exec("SELECT pg_reload_conf()")
			if err := p.standby.Stop(t.Context(), "fast"); err != nil {
				t.Fatal(err)
			}
			id := f.probe()
			f.relay.says(http.StatusServiceUnavailable, "the server holds events back", "synchronized_standby_slots")
			if err := p.standby.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.arrives(id)
			f.relay.says(http.StatusOK, "streaming")
			pid, err := strconv.Atoi(p.ask(p.standby, "SELECT pid::text FROM pg_stat_wal_receiver"))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			id = f.probe()
			f.relay.says(http.StatusServiceUnavailable, "the server holds events back", `"standby"`, "does not confirm")
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			f.arrives(id)
			f.relay.says(http.StatusOK, "streaming")
			f.judged(f.finish(), 0, 0)
		})
	}
}
