//go:build long && !embedded

package e2e_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv"
)

// farBehind is how far behind the slot is in a test of that, in bytes.
const farBehind = 2 << 30

// TestLongSwitchoverFarBehind: a primary whose slot is 2 GB behind is shut down
// and its standby promoted. The server does not wait for the relay to catch up,
// and the relay goes on with the backlog on the new primary.
func TestLongSwitchoverFarBehind(t *testing.T) {
	for _, row := range []struct {
		version string
		end     func(*faultRun)
	}{{"17", toRabbitMQ}, {"18", func(*faultRun) {}}} {
		t.Run(row.version, func(t *testing.T) {
			var p *pair
			f := &faultRun{t: t}
			f.begin(func(f *faultRun) {
				p = newPair(f, row.version, devenv.StandbyOptions{Synchronous: true})
				row.end(f)
			})
			defer func() { f.stopLoad() }()
			p.synced(f.site.slot())
			f.flows()
			f.stopRelay(f.relay)
			f.fallBehind()
			f.start().ready()
			behind := f.behind()
			began := time.Now()
			p.shutDown()
			took := time.Since(began)
			t.Logf("the primary stopped within %s, with the slot %d MiB behind", took.Round(time.Millisecond), behind>>20)
			if took > 10*time.Second || behind < farBehind/2 {
				t.Errorf("it took %s with the slot %d MiB behind", took, behind>>20)
			}
			f.relay.says(http.StatusServiceUnavailable, "database_unreachable")
			p.promote()
			f.failsOver()
			if err := f.history.Resolve(t.Context(), f.site.app); err != nil {
				t.Fatal(err)
			}
			f.judged(f.finish(), 0, 0)
			if rss := f.peak(); rss > maxRSS {
				t.Errorf("peak RSS %d MiB", rss>>20)
			}
		})
	}
}

// fallBehind adds a backlog to the WAL, beside what the writers do: messages of
// others, which the server sends and the relay ignores.
func (f *faultRun) fallBehind() {
	f.t.Helper()
	const size, step = 100_000, 64 << 20
	for range farBehind / step {
		f.site.exec("SELECT count(pg_logical_emit_message(false, 'of-others', repeat('x', " + strconv.Itoa(size) + "))) FROM generate_series(1, " + strconv.Itoa(step/size) + ")")
	}
}

// behind is how many bytes the server has not been told to forget.
func (f *faultRun) behind() int64 {
	f.t.Helper()
	text := f.site.value("SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint::text FROM pg_replication_slots WHERE slot_name = '" + f.site.slot() + "'")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}
