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

// spare is how many buckets of a ring hold no row that must still be kept: the
// one being written, and the two that are written next. See Oldest.
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
	const second = (Buckets - spare) * time.Second // what a ring keeps for each second of width
	width := retention / second
	if retention%second > 0 {
		width++
	}
	return Ring{Table: table, Buckets: Buckets, Width: max(width, 1) * time.Second}
}

// Holds is the longest retention that the ring can give.
func (r Ring) Holds() time.Duration { return time.Duration(r.Buckets-spare) * r.Width }

// Oldest returns the bucket to empty at the given time, in seconds since 1970
// UTC.
//
// A row written at time t is in bucket k % n, k = floor(t / width). While
// period k lasts, bucket k+1 is left alone: it is written next, and a
// truncation that is late must not stand in the way. So it is the turn of
// bucket k+2, whose rows are of period k+2-n. That period ended at (k+3-n) ×
// width, and now is k × width at least: the rows are n-3 widths old, or older.
// And none is older than n-1 widths, if rotation keeps up.
func (r Ring) Oldest(now int64) int {
	k := now / int64(r.Width/time.Second)
	return int((k + 2) % int64(r.Buckets))
}

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
