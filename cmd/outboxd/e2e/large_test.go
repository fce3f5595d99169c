//go:build !embedded

package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// ordinaryRSS bounds the resident set of a relay that has no large event.
const ordinaryRSS = 128 << 20

// TestLargeEvent is TestLongLargeEvent with a size that takes seconds.
func TestLargeEvent(t *testing.T) {
	t.Parallel()
	largeEvents(t, limitedBrokers, 20_000_000)
}

// largeEvents sends events of size bytes through each broker, one after the
// other: they take memory, here and there.
func largeEvents(t *testing.T, brokers map[string]func(t *testing.T, low, high int) limited, size int) {
	for name, b := range brokers {
		t.Run(name, func(t *testing.T) { largeEvent(t, b(t, size/2, 2*size), size) })
	}
}

// largeEvent: an event above the broker's limit is parked with what is behind
// it, and follows once the limit is raised; below the limit it just passes, as
// a row and emitted. Each relay stays below 128 MB and four times the event,
// and gives that back.
func largeEvent(t *testing.T, end limited, size int) {
	l := &large{t: t, site: newSite(t, devtest.Database(t)), end: end, size: size}
	r := l.site.run(end.args()...)
	l.write(outbox.Table.Write, "big", 10)
	l.write(outbox.Table.Write, "big", size)
	l.write(outbox.Table.Write, "big", 10)
	l.write(outbox.Table.Write, "other", 10)
	eventually(t, time.Minute, "two events are parked", func() bool { return r.metric("outboxd_parked_events") == 2 })
	l.arrived(2)
	l.ends(r, "parked")
	l.shown()

	end.lift()
	r = l.site.run(end.args()...)
	r.ready()
	l.site.parked("retry", "--all", "--wait").expect(t, 0, "published   2 events")
	l.arrived(4)
	l.ends(r, "released")

	r = l.site.run(end.args()...)
	l.write(outbox.Table.Write, "big", size)
	l.arrived(5)
	l.ends(r, "published")

	r = l.site.run(end.args()...)
	l.write(outbox.Table.Emit, "big", size)
	l.arrived(6)
	l.ends(r, "published from a message")
	judge(t, &l.history, end, 0)
}

// large is a site with a history of events, some of which are large.
type large struct {
	t       *testing.T
	site    *site
	end     limited
	size    int
	n       int // events so far
	history workload.History
}

// write commits one event with a payload of size bytes that cannot be
// compressed.
func (l *large) write(how func(outbox.Table, context.Context, pgx.Tx, ...outbox.Event) ([]outbox.ID, error), key string, size int) {
	l.t.Helper()
	l.n++
	payload := incompressible(uint64(l.n), size)
	event := outbox.Event{ID: outbox.NewID(), AggregateType: "big", AggregateID: key, Type: "big.written", Payload: payload}
	conn, err := pgx.Connect(l.t.Context(), l.site.app)
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	err = pgx.BeginFunc(l.t.Context(), conn, func(tx pgx.Tx) error {
		_, err := how(outbox.Table{MaxPayload: size}, l.t.Context(), tx, event)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.history.Add([]checker.Written{{ID: event.ID.String(), Outcome: checker.Committed, Domain: l.end.domain("big", key), N: l.n, Sum: sha256.Sum256(payload)}})
}

// incompressible is a JSON text of about size bytes.
func incompressible(seed uint64, size int) []byte {
	raw := make([]byte, base64.StdEncoding.DecodedLen(size-2))
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(raw)
	text := base64.StdEncoding.AppendEncode([]byte{'"'}, raw)
	return append(text[:min(len(text), size-1)], '"')
}

// arrived waits until the broker has n events.
func (l *large) arrived(n int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	distinct := 0
	l.end.read(ctx, func(d int) bool { distinct = d; return d >= n })
	if distinct < n {
		l.t.Fatalf("%d of %d events have arrived", distinct, n)
	}
}

// ends looks at the memory of a relay and stops it.
func (l *large) ends(r *relay, did string) {
	l.t.Helper()
	peak, allowed := peakRSS(r.cmd.Process.Pid), int64(ordinaryRSS+4*l.size)
	l.t.Logf("%s: peak RSS %d MiB", did, peak>>20)
	if peak > allowed {
		l.t.Errorf("%s: peak RSS %d MiB, %d allowed", did, peak>>20, allowed>>20)
	}
	eventually(l.t, 30*time.Second, "the memory is given back", func() bool {
		now := r.metric("process_resident_memory_bytes")
		return 0 < now && now < ordinaryRSS
	})
	if code := r.term(); code != 0 {
		l.t.Errorf("exit code %d after SIGTERM", code)
	}
}

// shown looks at the parked event as an operator does.
func (l *large) shown() {
	l.t.Helper()
	list := l.site.parked("list", "--reason", "too_large", "-o", "json")
	id := l.history.Written()[1].ID
	list.expect(l.t, 0, id, "too_large")
	show := l.site.parked("show", id)
	if n := len(show.stdout); n > 4096 {
		l.t.Errorf("parked show prints %d bytes of an event of %d", n, l.size)
	} else {
		show.expect(l.t, 0, "too_large", "--payload")
	}
	if whole := l.site.parked("show", id, "--payload"); whole.stdout != string(incompressible(2, l.size)) {
		l.t.Errorf("parked show --payload prints %d bytes that are not the payload's", len(whole.stdout))
	}
}
