package cdc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// idleBytes and idleStride are how far, and for how long, the position
	// must have moved without any event before it is worth a write. The write
	// itself makes WAL; an idle server must not see us chase our own.
	idleBytes  = 64 << 10
	idleStride = 5 * time.Second
	// inspectInterval is how often the slot's figures and the publication are
	// looked at.
	inspectInterval = 10 * time.Second
	// queryTimeout bounds each query on the SQL connection.
	queryTimeout = 5 * time.Second
	// floorInterval is how often a newer replay floor is looked for.
	floorInterval = time.Minute
)

// keeper owns the SQL connection of a session. Once a tick, and when the first
// events after a pause are acked, it
//
//   - looks who holds the slot: the lease on publishing;
//   - now and then reads the slot's figures and compares the publication;
//   - notices that the server sends nothing because a standby hangs;
//   - writes the witness if it is due, and lets the status writer confirm what
//     is durable;
//   - notices that the server is stopping. On a fast shutdown the walsender
//     sends its whole backlog first, and nothing on the wire tells; ordinary
//     connections are ended at once (57P01), and new ones refused (57P03).
//
// A session that cannot do the first, or write the witness, for as long as the
// server would wait for us ends: it would publish what it can never confirm.
type keeper struct {
	s       *Stream
	conn    *pgx.Conn
	witness witness // as last written

	writtenAt   time.Time
	dueSince    time.Time // the witness has been due since; zero: it is not
	inspectedAt time.Time
	checked     LSN // acked when the publication was last found in order
	floorAt     time.Time
	floor       floor
	troubled    bool // something fails, and the log knows
	standby     standbyWatch
}

// floor is a replay floor on its way: once everything before lsn is acked, the
// transactions below xmin are too, since they had all ended when it was taken.
// While the publication has not been found in order since then, what is acked
// may lack rows.
type floor struct {
	xmin string
	lsn  LSN
}

func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		began := time.Now()
		if err := k.tick(ctx); err != nil {
			k.s.fail(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-k.s.ctx.Done():
			return
		case <-ticker.C:
		case <-k.firstAcks(began):
			ticker.Reset(tick)
		}
	}
}

// firstAcks is ready when events were acked and the tick that began at that time
// had nothing to write: they need not wait for the next one. A relay that never
// lives for a whole tick would otherwise publish the same events each time.
// What fails is not tried again before the next tick.
func (k *keeper) firstAcks(began time.Time) <-chan struct{} {
	if k.troubled || !k.writtenAt.Before(began) {
		return nil
	}
	return k.s.r.queue.moved
}

// tick takes one step after the other; one that fails keeps no other from its
// turn. It returns why the session must end, or nil.
func (k *keeper) tick(ctx context.Context) *Error {
	var trouble *Error
	for _, step := range []func(context.Context) error{k.renewLease, k.inspect, k.watchStandby, k.keepWitness, k.takeFloor} {
		if ctx.Err() != nil {
			return nil
		}
		err := k.query(step)
		if err == nil {
			continue
		}
		trouble = asError(err)
		switch trouble.Code {
		case CodeLostLead, CodePublication, CodePublicationGap, CodeColumns, CodePrivilege, CodeServerStopping, CodeRetainedWAL, CodeSyncStandby:
			return trouble
		}
		if k.conn.IsClosed() {
			break
		}
	}
	if trouble == nil {
		k.troubled = false
		return nil
	}
	if !k.troubled {
		k.s.r.cfg.Logger.Warn("cannot look after the witness", "error", trouble.Error())
		k.troubled = true
	}
	return k.overdue(trouble)
}

// overdue ends a session whose lease has run out, or whose witness has been due
// for as long as the server would have waited for us. trouble is why.
func (k *keeper) overdue(trouble *Error) *Error {
	if err := k.s.Guard(); err != nil {
		return &Error{Code: CodeUnreachable, Detail: fmt.Sprintf("prove that slot %q is still held", k.s.r.cfg.Slot), Err: trouble}
	}
	if !k.dueSince.IsZero() && time.Since(k.dueSince) > k.s.timeout {
		return &Error{Code: CodeWitness, Detail: fmt.Sprintf("write the witness of pipeline %s, for %s now", k.s.r.cfg.Pipeline, k.s.timeout), Err: trouble,
			Fix: witnessFix}
	}
	return nil
}

// query runs one step on a connection that stands.
func (k *keeper) query(step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(k.s.queries, queryTimeout)
	defer cancel()
	if err := k.reconnect(ctx); err != nil {
		return err
	}
	return step(ctx)
}

// reconnect opens the SQL connection again if it was lost. The witness may have
// been written by an update whose answer got lost with it; the row tells, since
// nobody else signs as we do.
//
// That a server which streams to us takes no new connections (57P03) can only
// mean that it is shutting down.
func (k *keeper) reconnect(ctx context.Context) error {
	if !k.conn.IsClosed() {
		return nil
	}
	conn, err := connectSQL(ctx, &k.s.r.cfg)
	if refusesConnections(err) {
		return &Error{Code: CodeServerStopping, Detail: "the server is shutting down", Err: err}
	}
	if err != nil {
		return err
	}
	k.conn = conn
	w, err := readWitness(ctx, conn, k.s.r.cfg.Pipeline)
	if err != nil {
		return err
	}
	if w != nil && w.holder == k.s.r.holder && w.version == k.witness.version+1 {
		k.written(w)
	}
	return nil
}

// due says whether progress g is worth a write. New acks always are: run keeps
// that to once a second, which is what a crash may repeat beyond what was in
// flight.
func (k *keeper) due(g progress, now time.Time) bool {
	return k.news(g) || now.Sub(k.writtenAt) >= idleStride && k.far(g)
}

// news reports whether g says more of events than the witness: more are acked,
// or the transaction of the last one has its end now and can be confirmed.
func (k *keeper) news(g progress) bool {
	w := &k.witness.acked
	return g.commit != w.commit || g.events != w.events || w.confirm <= g.commit && g.commit < g.confirm
}

// far reports whether g is so far beyond the witness that it is worth a write
// without any event.
func (k *keeper) far(g progress) bool { return g.confirm >= k.witness.acked.confirm+idleBytes }

// keepWitness writes the witness if it is due.
func (k *keeper) keepWitness(ctx context.Context) error {
	now := time.Now()
	g := k.s.r.queue.progress()
	if !k.due(g, now) {
		k.dueSince = time.Time{}
		return nil
	}
	if k.dueSince.IsZero() {
		k.dueSince = now
	}
	return k.write(ctx, g, now)
}

// write makes g durable, then releases its position to the status writer: in
// this order, or a crash in between would leave the slot beyond the witness.
func (k *keeper) write(ctx context.Context, g progress, now time.Time) error {
	w := k.witness
	w.acked, w.checked = g, k.checked
	if k.floor.lsn != 0 && k.floor.lsn <= min(g.confirm, k.checked) {
		w.floor = k.floor.xmin
	}
	if err := updateWitness(ctx, k.conn, &k.s.r.cfg, &w); err != nil {
		return err
	}
	if w.floor == k.floor.xmin {
		k.floor = floor{}
	}
	k.writtenAt = now
	k.written(&w)
	return nil
}

// written takes note of a witness that is durable.
func (k *keeper) written(w *witness) {
	k.witness, k.dueSince = *w, time.Time{}
	k.s.r.last = w
	k.s.durable.Store(uint64(w.acked.confirm))
	k.s.poke()
}

// renewLease proves that the slot was ours when the query began. The time of
// its answer proves nothing: we may have been stopped in between.
func (k *keeper) renewLease(ctx context.Context) error {
	asked := time.Since(k.s.started)
	var pid int
	err := k.conn.QueryRow(ctx, "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", k.s.r.cfg.Slot).Scan(&pid)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		pid = 0
	case err != nil:
		return queryError("look who holds the slot", err)
	}
	switch pid {
	case k.s.pid:
		k.s.leasedAt.Store(int64(asked))
	case 0: // our walsender has ended; the stream will say why
	default:
		return &Error{Code: CodeLostLead, Detail: fmt.Sprintf("slot %q is held by server process %d now", k.s.r.cfg.Slot, pid)}
	}
	return nil
}

// inspect reads the slot's figures and compares the publication, now and then.
func (k *keeper) inspect(ctx context.Context) error {
	if time.Since(k.inspectedAt) < inspectInterval {
		return nil
	}
	k.inspectedAt = time.Now()
	if err := checkAsynchronous(ctx, k.conn, &k.s.r.cfg); err != nil {
		return err
	}
	st, err := readSlotStats(ctx, k.conn, &k.s.r.cfg)
	if err != nil {
		return err
	}
	k.s.r.record(func(s *Stats) { s.Slot = st })
	if err := k.s.r.heed(st); err != nil {
		return err
	}
	acked := k.s.r.queue.progress().confirm // before the look, not after
	pub, err := inspectPublication(ctx, k.conn, k.s.version, &k.s.r.cfg)
	if err != nil {
		return err
	}
	now := k.witness
	now.checked = k.checked
	if err := checkFingerprint(&k.s.r.cfg, pub, &now); err != nil {
		return err
	}
	k.checked = acked
	return nil
}

// takeFloor notes a snapshot's xmin and, after it, the end of the WAL: every
// transaction below xmin ended, and so wrote its commit record, before that.
func (k *keeper) takeFloor(ctx context.Context) error {
	if k.floor.lsn != 0 || time.Since(k.floorAt) < floorInterval {
		return nil
	}
	k.floorAt = time.Now()
	var f floor
	err := k.conn.QueryRow(ctx, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text").Scan(&f.xmin)
	if err == nil {
		err = k.conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()").Scan(&f.lsn)
	}
	if err != nil {
		return queryError("take a replay floor", err)
	}
	if f.xmin != k.witness.floor {
		k.floor = f
	}
	return nil
}

// finish writes the last witness of the session, if there is anything to
// write.
func (k *keeper) finish() error {
	g := k.s.r.queue.progress()
	if !k.news(g) && !k.far(g) {
		return nil
	}
	return k.query(func(ctx context.Context) error { return k.write(ctx, g, time.Now()) })
}

// closeSQL ends the connection in good order if that takes no time.
func closeSQL(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// closeReplication ends a walsender connection that never became a stream.
func closeReplication(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
