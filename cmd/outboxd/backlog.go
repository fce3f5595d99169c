package main

import (
	"sync"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
)

const (
	// firstTold is how long a partition may wait to be emptied before the log
	// says so. A rotation that nothing is in the way of takes two steps, a
	// minute apart.
	firstTold = 10 * time.Minute
	// longestUntold is the longest time between two such lines; until then each
	// comes after twice the time of the one before.
	longestUntold = 24 * time.Hour
)

// backlog is how long there has been a partition that should be empty and is
// not, whatever the reason: one that only lasts for a moment is none of
// anybody's business, one that lasts lets the table grow. The zero value is
// ready; it is safe for concurrent use.
type backlog struct {
	mu    sync.Mutex
	since time.Time // zero: there is none
	told  time.Duration
}

// note takes an outcome and says whether the log is to be told, and how long it
// has been.
func (b *backlog) note(now time.Time, outcome retention.Outcome) (waits time.Duration, tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if outcome == retention.Idle || outcome == retention.Truncated {
		b.since, b.told = time.Time{}, 0
		return 0, false
	}
	if b.since.IsZero() {
		b.since = now
	}
	waits = now.Sub(b.since)
	if waits < max(firstTold, min(2*b.told, b.told+longestUntold)) {
		return waits, false
	}
	b.told = waits
	return waits, true
}

// forget is for when another relay looks after the table.
func (b *backlog) forget() { b.note(time.Time{}, retention.Idle) }

// age is how long it has been; 0: there is no backlog.
func (b *backlog) age(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since.IsZero() {
		return 0
	}
	return now.Sub(b.since)
}

// obstacle says what is in the way of a rotation, and what mends that.
func obstacle(outcome retention.Outcome) string {
	switch outcome {
	case retention.Behind:
		return "a pipeline on this table has not published its rows, or has a gap to replay; see outboxd.witness"
	case retention.Busy:
		return "somebody uses it at every attempt: look in pg_locks for transactions that stay open"
	default:
		return "rows are added to it at every attempt: who writes events must leave the column bucket alone"
	}
}
