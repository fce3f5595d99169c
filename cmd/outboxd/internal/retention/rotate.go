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
//  1. The mark is taken under a SHARE lock on the partition. The lock waits for
//     each transaction that has written there to end and keeps others from
//     beginning to. So every row then in the partition is of a transaction
//     whose commit record is in the WAL, below the insert position read next,
//     also with asynchronous commit. That position is one half of the mark; the
//     other is the oldest xid then running, or the next one. The lock is
//     released.
//  2. A witness whose acked_lsn has reached the mark's position says that the
//     broker has acked all of these rows. Acked positions do not go back. While
//     a gap is still to be replayed it says no such thing.
//  3. The partition is locked in SHARE mode again and searched for rows added
//     in between, by somebody with a wrong bucket or a clock that jumped. Who
//     added them wrote after the mark, so their transaction was either running
//     when it was taken or began later: the row's xid is the mark's or newer.
//     (The newest xid in the partition at the mark would not do: a transaction
//     may get its xid and its seq first, wait behind our lock and write then.)
//     If there is one, this is a new mark, and nothing else is done.
//  4. TRUNCATE comes in the same transaction, so that nothing is written
//     between the look and it.
//
// Rows restored from a dump of another cluster may have xids that this one has
// not reached. No transaction of this cluster wrote them, so they count as old.
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

// mark is where the server was when all writers of a partition had ended.
type mark struct {
	partition string
	lsn       string // pg_lsn: every row is of a transaction that committed before it
	xid       string // xid8: who writes from now on has this xid or a newer one
}

// NewRotator returns the rotator of a table, schema.name.
func NewRotator(table string) *Rotator { return &Rotator{table: table} }

// Rotate does the next step on the oldest bucket. It is meant to be called
// about once a minute, on a connection of its own: it reads the partition from
// end to end once before it truncates, which takes as long as that takes, and
// may wait two seconds for a lock. The role needs SELECT and TRUNCATE on the
// partitions.
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
	var outcome Outcome
	var rows int64
	// READ COMMITTED, whatever the default: under SERIALIZABLE we could be
	// refused, or make others be, for having read the partition.
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	err := pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) (err error) {
		outcome, rows, err = r.locked(ctx, tx, partition)
		return err
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == lockNotAvailable || pgErr.Code == deadlockDetected) {
		return Busy, 0, nil
	}
	if outcome == Truncated && err == nil {
		r.mark = nil
	}
	return outcome, rows, err
}

const (
	lockNotAvailable = "55P03"
	deadlockDetected = "40P01"
)

// locked does what needs the lock: it truncates the partition if nothing was
// added since the mark, and marks it otherwise.
func (r *Rotator) locked(ctx context.Context, tx pgx.Tx, partition string) (Outcome, int64, error) {
	_, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+lockTimeout+"'")
	if err == nil {
		_, err = tx.Exec(ctx, "LOCK TABLE ONLY "+partition+" IN SHARE MODE")
	}
	if err != nil {
		return "", 0, err
	}
	if r.mark != nil && r.mark.partition == partition {
		var rows, added int64
		err := tx.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE xid >= $1::text::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot()))
			FROM ONLY `+partition, r.mark.xid).Scan(&rows, &added)
		if err != nil {
			return "", 0, err
		}
		if added == 0 {
			_, err = tx.Exec(ctx, "TRUNCATE TABLE ONLY "+partition)
			return Truncated, rows, err
		}
	}
	next := &mark{partition: partition}
	err = tx.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text, pg_snapshot_xmin(pg_current_snapshot())::text").Scan(&next.lsn, &next.xid)
	if err != nil {
		return "", 0, err
	}
	r.mark = next
	return Marked, 0, nil
}

// passed says whether every pipeline on the table has relayed what was marked,
// and has no gap to replay.
// Where there is no pipeline nothing was relayed.
func (r *Rotator) passed(ctx context.Context, conn *pgx.Conn) (passed bool, err error) {
	err = conn.QueryRow(ctx, "SELECT coalesce(bool_and(acked_lsn >= $2::pg_lsn AND gap_floor = ''), false) FROM outboxd.witness WHERE outbox_table = $1",
		r.table, r.mark.lsn).Scan(&passed)
	return passed, err
}

// oldest returns the partition to empty next, quoted. The server's clock
// decides, as it does for the column's default.
func oldest(ctx context.Context, conn *pgx.Conn, ring Ring) (partition string, err error) {
	var now int64
	if err := conn.QueryRow(ctx, "SELECT floor(date_part('epoch', clock_timestamp()))::bigint").Scan(&now); err != nil {
		return "", err
	}
	bucket := ring.Oldest(now)
	err = conn.QueryRow(ctx, `
		SELECT format('%I.%I', n.nspname, c.relname)
		FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_class parent ON parent.oid = i.inhparent
		JOIN pg_namespace pn ON pn.oid = parent.relnamespace
		WHERE pn.nspname || '.' || parent.relname = $1 AND substring(pg_get_expr(c.relpartbound, c.oid) FROM '\d+')::int = $2`,
		ring.Table, bucket).Scan(&partition)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("there is none for bucket %d: it was detached or dropped by hand", bucket)
	}
	return partition, err
}
