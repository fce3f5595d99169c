package demo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/internal/checker"
)

// event is a row of the event table: proof that it was committed.
type event struct {
	ID, AggregateType, AggregateID, Payload string
}

// committed reads all events from the table, which is the truth that the
// contexts are judged by. The number of a row rises with the commits of its
// aggregate, because the shop locks an order before it writes.
func committed(ctx context.Context, db *pgxpool.Pool) ([]event, error) {
	// Query's error comes back from CollectRows.
	rows, _ := db.Query(ctx, `SELECT id::text, aggregatetype, aggregateid, payload::text FROM outbox ORDER BY seq`)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	if err != nil {
		return nil, fmt.Errorf("read the events: %w", err)
	}
	return events, nil
}

// count returns the number of committed events by aggregate type.
func count(ctx context.Context, db *pgxpool.Pool) (map[string]int, error) {
	rows, _ := db.Query(ctx, `SELECT aggregatetype, count(*) FROM outbox GROUP BY 1`)
	counts := map[string]int{}
	var kind string
	var n int
	_, err := pgx.ForEachRow(rows, []any{&kind, &n}, func() error {
		counts[kind] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the events: %w", err)
	}
	return counts, nil
}

// judge compares what was committed with what the context consumed. Consumers
// that compete promise no order, so every event is in a domain of its own.
func (s station) judge(events []event, consumed []checker.Delivered) *checker.Verdict {
	numbers := map[string]int{}
	var written []checker.Written
	for _, e := range events {
		if !slices.Contains(s.consumes, e.AggregateType) {
			continue
		}
		w := checker.Written{
			ID: e.ID, Outcome: checker.Committed, Domain: domain(e.AggregateType, e.AggregateID), Sum: sha256.Sum256([]byte(e.Payload)),
		}
		numbers[w.Domain]++
		w.N = numbers[w.Domain]
		if s.competing {
			w.Domain = e.ID
		}
		written = append(written, w)
	}
	if s.competing {
		consumed = slices.Clone(consumed)
		for i := range consumed {
			consumed[i].Domain = consumed[i].ID
		}
	}
	return checker.Judge(written, consumed)
}

// verdict is what came of the demo, by context.
type verdict []part

type part struct {
	station
	*checker.Verdict
}

// One kill repeats what was in flight, and what was acked since the last note
// of how far the relay was, a second ago at most. Of that only what was in
// flight may come behind the work of the next relay: the kernel still sends it.
const (
	inFlight = 16_384
	aSecond  = 10_000
)

// clean reports whether every context got what it should. Duplicates within
// these bounds are the price of the kill.
func (v verdict) clean() bool {
	for _, p := range v {
		if !p.OK(inFlight+aSecond, inFlight) {
			return false
		}
	}
	return true
}

// String is a table, and under it the sum that the demo is about.
func (v verdict) String() string {
	var b strings.Builder
	var sum checker.Verdict
	fmt.Fprintf(&b, "%-14s%10s%10s%8s%10s%14s%12s\n", "context", "due", "consumed", "lost", "invented", "out of order", "duplicates")
	for _, p := range v {
		disordered := p.Disordered + p.LastDisordered
		fmt.Fprintf(&b, "%-14s%10d%10d%8d%10d%14d%12d\n", p.name, p.Written, p.Delivered, p.Lost, p.Invented, disordered, p.Duplicates)
		sum.Lost += p.Lost
		sum.Invented += p.Invented
		sum.Disordered += disordered
		sum.Changed += p.Changed
		sum.Misplaced += p.Misplaced
		// A record that a broker has twice is consumed twice by every context
		// that listens there. It counts once.
		if p.witness {
			sum.Duplicates += p.Duplicates
		}
	}
	fmt.Fprintf(&b, "\nlost %d, invented %d, out of order %d, duplicates %d\n", sum.Lost, sum.Invented, sum.Disordered, sum.Duplicates)
	if v.clean() {
		return b.String()
	}
	fmt.Fprintf(&b, "bytes changed %d, in the wrong place %d\n", sum.Changed, sum.Misplaced)
	for _, p := range v {
		for _, example := range p.Examples {
			fmt.Fprintf(&b, "  %s: %s\n", p.name, example)
		}
	}
	return b.String()
}
