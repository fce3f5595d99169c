package retention_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// outbox is a table made by setup, with a row in each of its buckets.
type outbox struct {
	*pgx.Conn
	url     string
	rotator *retention.Rotator
}

func newOutbox(t *testing.T) *outbox {
	t.Helper()
	// A transaction of anybody else that is older than the rows here makes them
	// count as new: the server is this process's own.
	url := devtest.DatabaseOn(t, devtest.Postgres(t).URL("postgres", "postgres"))
	if err := setup.Apply(t.Context(), setup.Options{Database: url}, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	conn, err := cdc.Connect(t.Context(), url, "retention") // as outboxd run does
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	o := &outbox{conn, url, retention.NewRotator("public.outbox")}
	o.fill(t)
	return o
}

func dial(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (o *outbox) text(t *testing.T, query string) string {
	t.Helper()
	var s string
	if err := o.QueryRow(t.Context(), query).Scan(&s); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

const insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, bucket) SELECT gen_random_uuid(), 'a', 'b', 'c', "

func (o *outbox) fill(t *testing.T) {
	t.Helper()
	exec(t, o.Conn, insert+"b FROM generate_series(0, 7) b")
}

// relay is what a relay that has published everything writes.
func (o *outbox) relay(t *testing.T) {
	t.Helper()
	exec(t, o.Conn, "UPDATE outboxd.witness SET acked_lsn = pg_current_wal_insert_lsn() + 1")
}

func (o *outbox) rotate(t *testing.T, want retention.Outcome) retention.Result {
	t.Helper()
	result, err := o.rotator.Rotate(t.Context(), o.Conn)
	if err != nil || result.Outcome != want {
		t.Fatalf("Rotate: %+v, %v; want %s", result, err, want)
	}
	return result
}

// awaitBlocked polls until somebody in the database waits for a lock on what.
func awaitBlocked(t *testing.T, conn *pgx.Conn, what string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		var blocked bool
		err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE NOT l.granted AND d.datname = current_database() AND l.locktype = $1)`, what).Scan(&blocked)
		if err != nil {
			t.Fatal(err)
		}
		if blocked {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits for a lock")
		}
	}
}

// bucket is the number of the partition in a result.
func bucket(t *testing.T, result retention.Result) int {
	t.Helper()
	var b int
	if _, err := fmt.Sscanf(result.Partition, "public.outbox_b%d", &b); err != nil {
		t.Fatalf("partition %q: %v", result.Partition, err)
	}
	return b
}

func TestRotate(t *testing.T) {
	o := newOutbox(t)
	marked := o.rotate(t, retention.Marked)
	// The clock of the column's default and the rotation's agree.
	current := o.text(t, `WITH r AS (INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'a', 'b', 'c') RETURNING bucket)
		SELECT bucket::text FROM r`)
	if want := fmt.Sprint((bucket(t, marked) + 6) % 8); current != want {
		t.Errorf("bucket %d is emptied while %s is written, want the second after it", bucket(t, marked), current)
	}
	o.rotate(t, retention.Behind)
	o.rotate(t, retention.Behind)
	o.relay(t)
	if done := o.rotate(t, retention.Truncated); done.Partition != marked.Partition || done.Rows != 1 {
		t.Errorf("truncated %+v, marked %+v", done, marked)
	}
	if n := o.text(t, "SELECT count(*)::text FROM outbox"); n != "8" { // 8 buckets, 1 emptied, 1 row more
		t.Errorf("%s rows left, want 8", n)
	}
	file := o.text(t, "SELECT pg_relation_filenode('"+marked.Partition+"')::text")
	o.rotate(t, retention.Idle)
	o.rotate(t, retention.Idle)
	if now := o.text(t, "SELECT pg_relation_filenode('"+marked.Partition+"')::text"); now != file {
		t.Error("an empty partition was truncated")
	}
}

// Every pipeline on the table counts, and those on others do not.
func TestRotateWaitsForEveryWitness(t *testing.T) {
	o := newOutbox(t)
	exec(t, o.Conn, `INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, outbox_table, acked_lsn) VALUES
		('lags', '1', 1, 1, 's', 'p', 'public.outbox', '0/1'), ('elsewhere', '1', 1, 1, 's', 'p', 'public.events', '0/1')`)
	o.rotate(t, retention.Marked)
	exec(t, o.Conn, "UPDATE outboxd.witness SET acked_lsn = pg_current_wal_insert_lsn() + 1 WHERE pipeline NOT IN ('lags', 'elsewhere')")
	o.rotate(t, retention.Behind)
	exec(t, o.Conn, "UPDATE outboxd.witness SET acked_lsn = pg_current_wal_insert_lsn() + 1 WHERE pipeline = 'lags'")
	o.rotate(t, retention.Truncated)
}

// Rows of a gap that is to be replayed stay, however far the pipeline is.
func TestRotateWaitsForReplay(t *testing.T) {
	o := newOutbox(t)
	o.rotate(t, retention.Marked)
	o.relay(t)
	exec(t, o.Conn, "UPDATE outboxd.witness SET gap_floor = '740'")
	o.rotate(t, retention.Behind)
	exec(t, o.Conn, "UPDATE outboxd.witness SET gap_floor = ''")
	o.rotate(t, retention.Truncated)
}

func TestRotateWithoutWitness(t *testing.T) {
	o := newOutbox(t)
	exec(t, o.Conn, "DELETE FROM outboxd.witness")
	o.rotate(t, retention.Marked)
	o.rotate(t, retention.Behind)
}

// A witness that is one byte short of the mark is behind, and one that is at it
// is not.
func TestRotateComparesWithTheMark(t *testing.T) {
	o := newOutbox(t)
	lsn := func() string { return o.text(t, "SELECT pg_current_wal_insert_lsn()::text") }
	mark := lsn()
	for o.rotate(t, retention.Marked); mark != lsn(); o.rotate(t, retention.Marked) {
		// The server itself wrote something meanwhile.
		o.rotator, mark = retention.NewRotator("public.outbox"), lsn()
	}
	exec(t, o.Conn, "UPDATE outboxd.witness SET acked_lsn = pg_lsn '"+mark+"' - 1")
	o.rotate(t, retention.Behind)
	exec(t, o.Conn, "UPDATE outboxd.witness SET acked_lsn = '"+mark+"'")
	o.rotate(t, retention.Truncated)
}

// Somebody writes into the oldest bucket after the mark: the row has not been
// relayed when the witness reaches the mark.
func TestRotateSeesLateRow(t *testing.T) {
	o := newOutbox(t)
	b := bucket(t, o.rotate(t, retention.Marked))
	o.relay(t)
	exec(t, o.Conn, fmt.Sprint(insert, b))
	o.rotate(t, retention.Marked)
	o.rotate(t, retention.Behind)
	o.relay(t)
	if done := o.rotate(t, retention.Truncated); done.Rows != 2 {
		t.Errorf("%d rows truncated, want 2", done.Rows)
	}
}

// The same by a transaction that got its xid, and the row's seq, before the
// mark: it is the oldest that runs, and maybe older than rows that the mark
// covers.
func TestRotateSeesLateRowOfOldTransaction(t *testing.T) {
	for name, between := range map[string]func(*outbox, *testing.T){
		"oldest of all":            func(*outbox, *testing.T) {},
		"older than rows that are": (*outbox).fill,
	} {
		t.Run(name, func(t *testing.T) { lateRow(t, between) })
	}
}

func lateRow(t *testing.T, between func(*outbox, *testing.T)) {
	o := newOutbox(t)
	writer := dial(t, o.url)
	exec(t, writer, "BEGIN; SELECT pg_current_xact_id(); SELECT nextval(pg_get_serial_sequence('outbox', 'seq'))")
	between(o, t)
	b := bucket(t, o.rotate(t, retention.Marked))
	exec(t, writer, strings.Replace(insert, "bucket)", "seq, bucket) OVERRIDING SYSTEM VALUE", 1)+
		fmt.Sprintf("currval(pg_get_serial_sequence('outbox', 'seq')), %d; COMMIT", b))
	o.relay(t)
	o.rotate(t, retention.Marked)
}

// Rows of a dump keep the xids of the cluster that wrote them.
func TestRotateRestoredRows(t *testing.T) {
	o := newOutbox(t)
	restore := strings.Replace(insert, "bucket)", "xid, bucket)", 1) + "'999999999999', b FROM generate_series(0, 7) b"
	exec(t, o.Conn, "TRUNCATE outbox; "+restore)
	o.rotate(t, retention.Marked)
	o.relay(t)
	o.rotate(t, retention.Truncated)
	exec(t, o.Conn, restore)
	o.rotate(t, retention.Marked) // what was proven of the rows before says nothing of these
}

func TestRotateGivesWayToWriter(t *testing.T) {
	o := newOutbox(t)
	writer := dial(t, o.url)
	exec(t, writer, "BEGIN; "+insert+"b FROM generate_series(0, 7) b")
	began := time.Now()
	o.rotate(t, retention.Busy)
	if waited := time.Since(began); waited < 1900*time.Millisecond || waited > 10*time.Second {
		t.Errorf("gave up after %s, want 2 s", waited)
	}
	exec(t, writer, "COMMIT")
	o.rotate(t, retention.Marked)
}

// A reader of the whole table holds up the truncation, and the truncation holds
// up no writer meanwhile.
func TestRotateGivesWayToReader(t *testing.T) {
	o := newOutbox(t)
	o.rotate(t, retention.Marked)
	o.relay(t)
	reader, writer := dial(t, o.url), dial(t, o.url)
	exec(t, reader, "BEGIN; SELECT count(*) FROM outbox")
	done := make(chan retention.Outcome, 1)
	go func() {
		result, _ := o.rotator.Rotate(context.Background(), o.Conn)
		done <- result.Outcome
	}()
	awaitBlocked(t, writer, "relation")
	exec(t, writer, "SET lock_timeout = '1ms'; SELECT outboxd.publish('order', '7', 'OrderPlaced', '{}')")
	if outcome := <-done; outcome != retention.Busy {
		t.Fatalf("got %s, want busy", outcome)
	}
	exec(t, reader, "COMMIT")
	o.rotate(t, retention.Truncated)
}

// A mark is of one partition. When the next one's turn has come before the
// first was emptied, it proves nothing.
func TestRotateForgetsMarkOfAnotherPartition(t *testing.T) {
	o := newOutbox(t)
	marked := bucket(t, o.rotate(t, retention.Marked))
	ring, _, err := retention.Read(t.Context(), o.Conn, "public.outbox")
	if err != nil {
		t.Fatal(err)
	}
	for now := time.Now().Unix(); ring.Oldest(now) == marked; {
		ring.Width += time.Hour // as if time had passed
	}
	exec(t, o.Conn, fmt.Sprintf("UPDATE outboxd.ring SET width_seconds = %d", int(ring.Width.Seconds())))
	if b := bucket(t, o.rotate(t, retention.Marked)); b == marked {
		t.Fatalf("bucket %d was marked again", b)
	}
	o.rotate(t, retention.Behind)
	o.relay(t)
	o.rotate(t, retention.Truncated)
}

// A reader of the partition waits for a third, who waits for us. We are the ones
// to give up.
func TestRotateGivesWayInDeadlock(t *testing.T) {
	o := newOutbox(t)
	b := bucket(t, o.rotate(t, retention.Marked))
	o.relay(t)
	reader, third, watch := dial(t, o.url), dial(t, o.url), dial(t, o.url)
	exec(t, third, "SET deadlock_timeout = '1h'; BEGIN; SELECT pg_advisory_xact_lock(1)")
	exec(t, reader, "SET deadlock_timeout = '1h'; BEGIN; SELECT count(*) FROM outbox")
	done := make(chan error, 3)
	later := func(conn *pgx.Conn, sql string) {
		_, err := conn.PgConn().Exec(context.Background(), sql).ReadAll()
		done <- err
	}
	go later(reader, "SELECT pg_advisory_xact_lock(1); COMMIT")
	awaitBlocked(t, watch, "advisory")
	go func() {
		result, err := o.rotator.Rotate(context.Background(), o.Conn)
		if err == nil && result.Outcome != retention.Busy {
			err = fmt.Errorf("Rotate: got %s, want busy", result.Outcome)
		}
		done <- err
	}()
	awaitBlocked(t, watch, "relation")
	go later(third, fmt.Sprint(insert, b)+"; COMMIT")
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	o.rotate(t, retention.Marked)
}

func TestRotatePlainTable(t *testing.T) {
	o := newOutbox(t)
	exec(t, o.Conn, "CREATE TABLE plain (LIKE outbox); INSERT INTO plain SELECT * FROM outbox")
	o.rotator = retention.NewRotator("public.plain")
	if result := o.rotate(t, retention.Idle); result.Partition != "" {
		t.Errorf("got %+v", result)
	}
}

func TestRotateMissingPartition(t *testing.T) {
	o := newOutbox(t)
	exec(t, o.Conn, "ALTER TABLE outbox DETACH PARTITION "+strings.TrimPrefix(o.rotate(t, retention.Marked).Partition, "public."))
	if _, err := o.rotator.Rotate(t.Context(), o.Conn); err == nil || !strings.Contains(err.Error(), "detached or dropped by hand") {
		t.Errorf("got %v", err)
	}
}

func TestCheck(t *testing.T) {
	o := newOutbox(t)
	for _, ok := range []time.Duration{time.Second, 72 * time.Hour} {
		if err := retention.Check(t.Context(), o.Conn, "public.outbox", ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	err := retention.Check(t.Context(), o.Conn, "public.outbox", 72*time.Hour+1)
	var named *cdc.Error
	if !errors.As(err, &named) || named.Code != cdc.CodeConfig || !strings.Contains(named.Detail, "hold 72h0m0s") || named.Fix == "" {
		t.Errorf("got %v", err)
	}
	if err := retention.Check(t.Context(), o.Conn, "public.elsewhere", 1000*time.Hour); err != nil {
		t.Errorf("a table without a ring: %v", err)
	}
}
