// Package retention empties the ring of partitions that an outbox table made by
// setup consists of: once the rows of the oldest partition are old enough and
// proven to be relayed, it is truncated, which costs neither dead rows nor a
// vacuum and locks that partition alone.
package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// Buckets is how many partitions setup makes.
const Buckets = 8

// spare is how many buckets of a ring hold no row that must be kept.
//
// A row written at time t goes to bucket k % n, k = floor(t / width). While
// bucket k is written, bucket k+1 is kept clear of: it is the next to be
// written, and a truncation that is late must not stand in the way of writers.
// So the one to empty is (k+2) % n, whose rows were written in the period
// k+2-n. The youngest of them may have been written at its very end, and the
// oldest moment at which it may be truncated is the very start of k, n-3 widths
// later. The two buckets beside it and itself are the spare.
const spare = 3

// Ring is how an outbox table is partitioned.
type Ring struct {
	// Table is schema.name.
	Table string
	// Buckets is the number of partitions.
	Buckets int
	// Width is the time for which one partition is written, in whole seconds.
	Width time.Duration
}

// NewRing returns the ring that keeps every row for at least retention, and
// none for more than retention × 7/5 as long as rotation keeps up.
func NewRing(table string, retention time.Duration) Ring {
	const kept = Buckets - spare
	width := (retention + kept*time.Second - 1) / (kept * time.Second)
	return Ring{Table: table, Buckets: Buckets, Width: max(width, 1) * time.Second}
}

// Holds is the longest retention that the ring can give.
func (r Ring) Holds() time.Duration { return time.Duration(r.Buckets-spare) * r.Width }

// Read returns the ring of a table, schema.name, and false when it has none:
// setup did not make the table.
func Read(ctx context.Context, conn *pgx.Conn, table string) (Ring, bool, error) {
	var width int64
	ring := Ring{Table: table}
	err := conn.QueryRow(ctx, "SELECT buckets, width_seconds FROM outboxd.ring WHERE outbox_table = $1", table).
		Scan(&ring.Buckets, &width)
	if errors.Is(err, pgx.ErrNoRows) {
		return ring, false, nil
	}
	if err != nil {
		return ring, false, fmt.Errorf("read the ring of table %s: %w", table, err)
	}
	ring.Width = time.Duration(width) * time.Second
	return ring, true, nil
}

// Check returns an *cdc.Error when the table's ring would drop rows before
// retention is over. A table without a ring passes: nothing is ever dropped
// from it.
func Check(ctx context.Context, conn *pgx.Conn, table string, retention time.Duration) error {
	ring, ok, err := Read(ctx, conn, table)
	if err != nil || !ok || retention <= ring.Holds() {
		return err
	}
	return &cdc.Error{
		Code: cdc.CodeConfig,
		Detail: fmt.Sprintf("the partitions of table %s hold %s, and the retention asked for is %s: the ring is fixed when the table is made",
			table, ring.Holds(), retention),
		Fix: fmt.Sprintf("ask for --retention %s or less, or make a table with a longer one: outboxd setup --table OTHER --retention %s",
			ring.Holds(), retention),
	}
}
