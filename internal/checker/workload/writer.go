// Package workload makes histories for package checker: writers that commit,
// roll back and lose connections, and consumers that read a broker back.
package workload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/outbox"
)

// Options says what the writers do. They are deterministic but for the order
// in which they get at shared keys.
type Options struct {
	// Database is where they write, as a role that may only write.
	Database string
	Table    outbox.Table
	Seed     uint64
	// Writers run at once, each Transactions transactions (0: until ctx ends).
	Writers, Transactions int
	// Keys is how many aggregates each writer has to itself; one key in ten is
	// taken from a set that all writers share.
	Keys int
	// MaxEvents bounds the events of one transaction; most have few.
	MaxEvents int
	// Emit is the share of transactions, in percent, that write to the log
	// instead of the table.
	Emit int
	// Pause is slept after each transaction.
	Pause time.Duration
	// Small keeps payloads below 5 KB. Without it one in 2,000 has a million
	// bytes.
	Small bool
	// Domain returns the ordering domain of an event, as the consumers name
	// it. Nil: topic outbox.event.AGGREGATETYPE.
	Domain func(aggregateType, aggregateID string) string
}

// History collects what the writers did. Safe for concurrent use.
type History struct {
	mu      sync.Mutex
	written []checker.Written
	numbers map[string]int
}

// Written returns a copy of all that was written so far.
func (h *History) Written() []checker.Written {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]checker.Written(nil), h.written...)
}

// Committed counts the events that are known to be committed.
func (h *History) Committed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, w := range h.written {
		if w.Outcome == checker.Committed {
			n++
		}
	}
	return n
}

// Ledger is the table in which each transaction of a writer notes its id.
const Ledger = "public.ledger"

// LedgerSQL makes the ledger.
const LedgerSQL = "CREATE TABLE " + Ledger + " (tx uuid PRIMARY KEY); GRANT INSERT, SELECT ON " + Ledger + " TO PUBLIC"

// Resolve finds out about the transactions whose outcome is not known. It takes
// the place of each in the ledger: where that is taken the transaction has
// committed, and where it was not the transaction never will. (The server's own
// transaction ids do not tell: after a crash it gives one again whose records
// were not flushed.)
func (h *History) Resolve(ctx context.Context, database string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var conn *pgx.Conn
	outcomes := map[string]checker.Outcome{}
	for i := range h.written {
		w := &h.written[i]
		if w.Outcome != checker.Unknown || w.Tx == "" {
			continue
		}
		if conn == nil {
			var err error
			if conn, err = pgx.Connect(ctx, database); err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
		}
		if outcomes[w.Tx] == 0 {
			tag, err := conn.Exec(ctx, "INSERT INTO "+Ledger+" VALUES ($1) ON CONFLICT DO NOTHING", w.Tx)
			if err != nil {
				return fmt.Errorf("look up transaction %s: %w", w.Tx, err)
			}
			outcomes[w.Tx] = checker.Committed
			if tag.RowsAffected() == 1 {
				outcomes[w.Tx] = checker.RolledBack
			}
		}
		w.Outcome = outcomes[w.Tx]
	}
	return nil
}

// number returns the next number of a domain. The caller holds the domain's
// lock in the database until its transaction has ended, so numbers rise in the
// order of commits.
func (h *History) number(domain string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.numbers == nil {
		h.numbers = map[string]int{}
	}
	h.numbers[domain]++
	return h.numbers[domain]
}

// Add adds events that somebody else wrote.
func (h *History) Add(ws []checker.Written) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.written = append(h.written, ws...)
}

// Run runs the writers until they are done or ctx ends. What they wrote is
// added to h. A database that goes away is waited for.
func Run(ctx context.Context, o Options, h *History) error {
	var g errgroup.Group
	for i := range o.Writers {
		w := &writer{o: o, h: h, id: i, rng: rand.New(rand.NewPCG(o.Seed, uint64(i)))}
		g.Go(func() error { return w.run(ctx) })
	}
	return g.Wait()
}

type writer struct {
	o    Options
	h    *History
	id   int
	rng  *rand.Rand
	conn *pgx.Conn

	shared string // the key of others that this transaction has taken
}

func (w *writer) run(ctx context.Context) error {
	defer func() {
		if w.conn != nil {
			_ = w.conn.Close(context.Background())
		}
	}()
	for i := 0; w.o.Transactions == 0 || i < w.o.Transactions; i++ {
		if ctx.Err() != nil {
			return nil
		}
		if err := w.connect(ctx); err != nil {
			return err
		}
		if w.conn == nil {
			return nil // ctx has ended
		}
		if err := w.transaction(); err != nil {
			return err
		}
		if w.o.Pause > 0 {
			select {
			case <-time.After(w.o.Pause):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// connect waits for the database as long as ctx lasts.
func (w *writer) connect(ctx context.Context) error {
	for w.conn == nil || w.conn.IsClosed() {
		conn, err := pgx.Connect(ctx, w.o.Database)
		if err == nil {
			w.conn = conn
			return nil
		}
		w.conn = nil
		if err := w.misled(err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// transaction writes one and notes its outcome. It does not take a context: a
// writer is stopped between transactions, so that its history is complete. An
// error is one of the test, not of the database's being away.
func (w *writer) transaction() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.shared = ""
	tx, err := w.conn.Begin(ctx)
	if err != nil {
		_ = w.conn.Close(ctx)
		return nil
	}
	id := outbox.NewID().String()
	if _, err := tx.Exec(ctx, "INSERT INTO "+Ledger+" VALUES ($1)", id); err != nil {
		_ = w.conn.Close(ctx)
		return w.misled(err)
	}
	written, err := w.fill(ctx, tx)
	for i := range written {
		written[i].Tx = id
	}
	if err != nil {
		// Nothing of it can have been committed.
		w.finish(written, checker.RolledBack)
		_ = w.conn.Close(ctx)
		return w.misled(err)
	}
	if w.rng.IntN(10) == 0 {
		if err := tx.Rollback(ctx); err != nil {
			_ = w.conn.Close(ctx)
		}
		w.finish(written, checker.RolledBack)
		return nil
	}
	if err := tx.Commit(ctx); err != nil {
		w.finish(written, checker.Unknown)
		_ = w.conn.Close(ctx)
		return nil
	}
	w.finish(written, checker.Committed)
	return nil
}

// misled returns err if it says that the test is wrong, nil if the database may
// just be away. A history without events would please every judge.
func (w *writer) misled(err error) error {
	var invalid *outbox.ValidationError
	if errors.As(err, &invalid) {
		return fmt.Errorf("writer %d: %w", w.id, err)
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && slices.Contains(wrong, refused.Code[:2]) {
		return fmt.Errorf("writer %d: %w", w.id, err)
	}
	return nil
}

// wrong are the classes of SQLSTATE that no waiting mends: who we are, which
// database, and what we say or may do there.
var wrong = []string{"28", "3D", "42"}

// finish gives the outcome to all that has none yet and adds it to the history.
func (w *writer) finish(written []checker.Written, outcome checker.Outcome) {
	for i := range written {
		if written[i].Outcome == 0 {
			written[i].Outcome = outcome
		}
	}
	w.h.Add(written)
}

// fill writes the events of one transaction, some of them behind a savepoint
// that is rolled back.
func (w *writer) fill(ctx context.Context, tx pgx.Tx) ([]checker.Written, error) {
	written, err := w.write(ctx, tx, w.count())
	if err != nil || w.rng.IntN(5) > 0 {
		return written, err
	}
	save, err := tx.Begin(ctx)
	if err != nil {
		return written, err
	}
	undone, err := w.write(ctx, save, 1+w.rng.IntN(3))
	for i := range undone {
		undone[i].Outcome = checker.RolledBack
	}
	written = append(written, undone...)
	if err != nil {
		return written, err
	}
	if err := save.Rollback(ctx); err != nil {
		return written, err
	}
	more, err := w.write(ctx, tx, 1+w.rng.IntN(3))
	return append(written, more...), err
}

// count is small most of the time.
func (w *writer) count() int {
	switch w.rng.IntN(20) {
	case 0:
		return 1 + w.rng.IntN(max(w.o.MaxEvents, 1))
	case 1, 2, 3:
		return 1 + w.rng.IntN(min(max(w.o.MaxEvents, 1), 20))
	}
	return 1
}

func (w *writer) write(ctx context.Context, tx pgx.Tx, n int) ([]checker.Written, error) {
	events := make([]outbox.Event, n)
	written := make([]checker.Written, n)
	for i := range n {
		aggregate, shared := w.key()
		if shared {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext($1))", aggregate); err != nil {
				return nil, err
			}
		}
		kind := [...]string{"order", "invoice"}[int(aggregate[len(aggregate)-1])%2]
		domain := "outbox.event." + kind + "/" + aggregate
		if w.o.Domain != nil {
			domain = w.o.Domain(kind, aggregate)
		}
		number := w.h.number(domain)
		payload := w.payload(number)
		events[i] = outbox.Event{ID: outbox.NewID(), AggregateType: kind, AggregateID: aggregate, Type: kind + ".changed", Payload: payload}
		if w.rng.IntN(3) == 0 {
			events[i].Headers = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "é \"quoted\""}
		}
		written[i] = checker.Written{ID: events[i].ID.String(), Domain: domain, N: number, Sum: sha256.Sum256(payload)}
	}
	var err error
	if w.rng.IntN(100) < w.o.Emit {
		_, err = w.o.Table.Emit(ctx, tx, events...)
	} else {
		_, err = w.o.Table.Write(ctx, tx, events...)
	}
	return written, err
}

// key returns an aggregate id: one of the writer's own, or one that all writers
// use. A transaction takes at most one of those, or two writers could wait for
// each other.
func (w *writer) key() (id string, shared bool) {
	if w.rng.IntN(10) > 0 {
		return fmt.Sprintf("w%d-%d", w.id, w.rng.IntN(max(w.o.Keys, 1))), false
	}
	if w.shared == "" {
		w.shared = fmt.Sprintf("shared-%d", w.rng.IntN(10))
	}
	return w.shared, true
}

// payload returns JSON text that a careless hand would change: spaces, repeated
// members, numbers beyond float64, escapes that jsonb refuses, every script.
func (w *writer) payload(n int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `{ "n":%d,"n" : %d, "big": 9007199254740993, "price": 1.10`, n, n)
	switch w.rng.IntN(8) {
	case 0:
		b.WriteString(`, "nul": "\u0000", "quotes": "it's \"so\" \\ "`)
	case 1:
		b.WriteString(`, "text": "ünïcödé 🙂 日本語 <>&"`)
	case 2:
		fmt.Fprintf(&b, `, "fill": %q`, strings.Repeat("x", w.rng.IntN(4000)))
	}
	if w.rng.IntN(2000) == 0 && !w.o.Small {
		fmt.Fprintf(&b, `, "blob": %q`, strings.Repeat("0123456789abcdef", 1_000_000/16))
	}
	b.WriteString(" }")
	return []byte(b.String())
}
