package retention

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// lockTimeout bounds how long a writer or reader of the partition can have to
// wait behind us.
const lockTimeout = "2s"

// Outcome is what one call of Rotate came to.
type Outcome string

const (
	// Idle: the table has no ring, or its oldest bucket is empty.
	Idle Outcome = "idle"
	// Marked: the oldest bucket has rows; a later call can prove them relayed.
	Marked Outcome = "marked"
	// Behind: some pipeline has not relayed them all.
	Behind Outcome = "behind"
	// Busy: somebody uses the partition; nothing was done.
	Busy Outcome = "busy"
	// Truncated: the bucket was emptied.
	Truncated Outcome = "truncated"
)

// Result tells what Rotate did, for a log line and a metric.
type Result struct {
	Outcome   Outcome
	Partition string // schema.name; empty when there is no ring
	Rows      int64  // in the partition when Truncated
}

// Rotator empties the oldest bucket of one table, in two calls: the first marks
// how far every pipeline must get, a later one finds that they have and
// truncates. It is for one goroutine.
//
// Why no row is lost that could still be needed. A row is needed until it has
// been relayed: should the slot be lost, it is replayed from the table.
//
//  1. The mark is taken under a SHARE lock on the partition. It waits for each
//     transaction that has written there to end and keeps others from
//     beginning to. So every row then in the partition is of a transaction
//     whose commit record is in the WAL, below the insert position read next,
//     also with asynchronous commit. That position, the number of rows and the
//     highest seq are the mark; the lock is released.
//  2. A witness whose acked_lsn has reached the mark's position says that the
//     broker has acked all of these rows. Acked positions do not go back.
//  3. The partition is locked in SHARE mode again. If the number of rows and
//     the highest seq are those of the mark, nothing was added in between, by
//     a writer with a wrong bucket or a wrong clock: rows are only ever added,
//     and seq rises with each. Otherwise the new rows are marked instead. Their
//     xids would not tell: a transaction may have got its xid before the mark
//     was taken and have written here only after it.
//  4. TRUNCATE comes in the same transaction, so that nothing is written
//     between the look and it.
//
// Why nobody is held up. Writers are on another partition; the lock of TRUNCATE
// is on the leaf alone, and asked for only when there is something to empty,
// because it reaches the standbys. Who does use the partition, a reader of the
// whole table for one, makes us give up after two seconds.
//
// The mark is kept in memory: a relay that restarts marks again, and a mark
// never meets the WAL of another cluster.
type Rotator struct {
	table string
	mark  *mark
}

// mark is what a partition held when all its writers had ended, and where the
// WAL was.
type mark struct {
	partition string
	contents
	lsn string // pg_lsn
}

type contents struct {
	rows, maxSeq int64
}

// NewRotator returns the rotator of a table, schema.name.
func NewRotator(table string) *Rotator { return &Rotator{table: table} }

// Rotate does the next step on the oldest bucket. It is meant to be called
// about once a minute, on a connection that nobody waits for: it reads the
// partition twice in its life and may wait two seconds for a lock. The role
// needs SELECT and TRUNCATE on the partitions.
func (r *Rotator) Rotate(ctx context.Context, conn *pgx.Conn) (Result, error) {
	ring, ok, err := Read(ctx, conn, r.table)
	if err != nil || !ok {
		return Result{Outcome: Idle}, err
	}
	partition, err := oldest(ctx, conn, ring)
	if err != nil {
		return Result{}, fmt.Errorf("find the oldest partition of table %s: %w", r.table, err)
	}
	outcome, rows, err := r.step(ctx, conn, partition)
	if err != nil {
		return Result{}, fmt.Errorf("empty partition %s: %w", partition, err)
	}
	return Result{Outcome: outcome, Partition: partition, Rows: rows}, nil
}

func (r *Rotator) step(ctx context.Context, conn *pgx.Conn, partition string) (Outcome, int64, error) {
	var any bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+partition+")").Scan(&any); err != nil {
		return "", 0, err
	}
	if !any {
		r.mark = nil
		return Idle, 0, nil
	}
	if r.mark != nil && r.mark.partition == partition {
		passed, err := r.passed(ctx, conn)
		if err != nil || !passed {
			return Behind, 0, err
		}
	}
	outcome := Marked
	var found contents
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var err error
		outcome, found, err = r.locked(ctx, tx, partition)
		return err
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == lockNotAvailable || pgErr.Code == deadlockDetected) {
		return Busy, 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	if outcome == Truncated {
		r.mark = nil
	}
	return outcome, found.rows, nil
}

const (
	lockNotAvailable = "55P03"
	deadlockDetected = "40P01"
)

// locked does what needs the lock: it truncates the partition if it holds what
// was marked, and marks it otherwise.
func (r *Rotator) locked(ctx context.Context, tx pgx.Tx, partition string) (Outcome, contents, error) {
	var found contents
	_, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+lockTimeout+"'")
	if err == nil {
		_, err = tx.Exec(ctx, "LOCK TABLE ONLY "+partition+" IN SHARE MODE")
	}
	if err == nil {
		err = tx.QueryRow(ctx, "SELECT count(*), coalesce(max(seq), 0) FROM "+partition).Scan(&found.rows, &found.maxSeq)
	}
	if err != nil {
		return "", found, err
	}
	if r.mark != nil && r.mark.partition == partition && r.mark.contents == found {
		_, err = tx.Exec(ctx, "TRUNCATE TABLE ONLY "+partition)
		return Truncated, found, err
	}
	next := &mark{partition: partition, contents: found}
	if err := tx.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&next.lsn); err != nil {
		return "", found, err
	}
	r.mark = next
	return Marked, found, nil
}

// passed says whether every pipeline on the table has relayed what was marked.
// Where there is no pipeline nothing was relayed.
func (r *Rotator) passed(ctx context.Context, conn *pgx.Conn) (passed bool, err error) {
	err = conn.QueryRow(ctx, "SELECT coalesce(bool_and(acked_lsn >= $2::pg_lsn), false) FROM outboxd.witness WHERE outbox_table = $1",
		r.table, r.mark.lsn).Scan(&passed)
	return passed, err
}

// oldest returns the partition to empty next, quoted. The server's clock
// decides, as it does for the column's default; seconds since 1970 know no time
// zone.
func oldest(ctx context.Context, conn *pgx.Conn, ring Ring) (partition string, err error) {
	err = conn.QueryRow(ctx, `
		SELECT format('%I.%I', n.nspname, c.relname)
		FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_class parent ON parent.oid = i.inhparent
		JOIN pg_namespace pn ON pn.oid = parent.relnamespace
		WHERE pn.nspname || '.' || parent.relname = $1
		  AND substring(pg_get_expr(c.relpartbound, c.oid) FROM '\d+')::int =
		      (floor(date_part('epoch', clock_timestamp()) / $2)::bigint + 2) % $3`,
		ring.Table, ring.Width.Seconds(), ring.Buckets).Scan(&partition)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errors.New("the partition is gone: it was detached or dropped by hand")
	}
	return partition, err
}
