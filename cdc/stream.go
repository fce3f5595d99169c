package cdc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Stream is one session: a walsender connection that holds the slot, and an SQL
// connection beside it. Three goroutines share it. Run reads the walsender
// connection, and nobody else does; the status writer writes it, and nobody
// else does; the keeper owns the SQL connection. Close ends the last two.
type Stream struct {
	r        *Reader
	conn     net.Conn
	frontend *pgproto3.Frontend
	pid      int // of the walsender
	version  int
	epoch    uint16
	binary   bool          // values come in binary format
	gap      string        // see Gap
	timeout  time.Duration // wal_sender_timeout of this session

	// ctx ends with the session; its cause says why.
	ctx  context.Context
	fail context.CancelCauseFunc

	keeper *keeper
	stop   context.CancelFunc // ends keeper and status writer
	// queries is the context of the keeper's queries: they outlast stop, or the
	// last witness would not know what became of one that was cut short, but
	// not the time that Close is given.
	queries context.Context
	abort   context.CancelFunc
	done    sync.WaitGroup
	closed  bool

	// Written by Run only.
	decoder   *decoder
	tx        transaction
	message   Message
	sinceWait int  // events since there was room in the queue
	heldBack  bool // since the server said so, nothing has come

	wire     *bufferedConn // of conn
	received atomic.Uint64 // highest LSN received
	handling atomic.Bool   // Run is not waiting for the network

	durable  atomic.Uint64 // what the witness says may be confirmed
	asked    atomic.Bool   // the server wants a status now
	wake     chan struct{} // to the status writer: look again
	started  time.Time
	leasedAt atomic.Int64 // since started, in nanoseconds: the last proof that the slot is ours
}

// transaction is the one that Run is in the middle of.
type transaction struct {
	open    bool
	commit  LSN
	time    time.Time
	xid     uint32
	ordinal uint32 // of the next event
}

// newStream takes over both connections and starts the session's goroutines.
// At held the slot was known to be ours.
func newStream(r *Reader, sql *pgx.Conn, repl *pgconn.PgConn, version int, w *witness, timeout time.Duration, held time.Time) (*Stream, error) {
	hijacked, err := repl.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the replication connection: %w", err)
	}
	wire, err := onWire(hijacked.Conn)
	if err != nil {
		_ = hijacked.Conn.Close()
		return nil, err
	}
	s := &Stream{
		r: r, conn: hijacked.Conn, wire: wire, frontend: hijacked.Frontend, pid: int(hijacked.PID), version: version, epoch: w.epoch, gap: w.gap, timeout: timeout,
		decoder: newDecoder(), wake: make(chan struct{}, 1), started: held,
	}
	s.message.next = s.next
	s.durable.Store(uint64(w.acked.confirm))
	s.ctx, s.fail = context.WithCancelCause(context.Background())
	r.record(func(st *Stats) {
		st.Epoch, st.Streaming, st.LastReceived, st.SilenceLimit = w.epoch, true, time.Now(), timeout
		st.Confirmed, st.HeldBack = w.acked.confirm, ""
	})
	s.queries, s.abort = context.WithCancel(context.Background())
	s.keeper = &keeper{s: s, conn: sql, witness: *w, checked: w.acked.confirm, floorAt: held}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.done.Go(func() { s.writeStatus(ctx) })
	s.done.Go(func() { s.keeper.run(ctx) })
	return s, nil
}

// Handler gets the messages one at a time, in order, on the goroutine of Run.
// While it blocks nothing is read, and the connection is kept alive. Its error
// ends the session and is returned by Run as it is.
type Handler func(ctx context.Context, m *Message) error

// Run reads until ctx ends (it then returns ctx's cause) or something fails (an
// *Error, or the handler's error). After Run the session is still open: acks
// that come in go on to be confirmed until Close. Call it once.
func (s *Stream) Run(ctx context.Context, h Handler) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()
	// A read in progress ends by its deadline; writes keep their own.
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })()
	err := s.read(ctx, h)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var broken *Error
	if errors.As(err, &broken) {
		s.fail(broken) // the stream cannot be used any more, not even to take leave
	}
	return err
}

func (s *Stream) read(ctx context.Context, h Handler) error {
	for {
		s.handling.Store(false)
		msg, err := s.frontend.Receive()
		s.handling.Store(true)
		if err != nil {
			return &Error{Code: CodeUnreachable, Detail: "read the replication stream", Err: err}
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			if err := s.copyData(ctx, msg.Data, h); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return streamError(&s.r.cfg, pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.NoticeResponse:
			if err := s.notice(msg); err != nil {
				return err
			}
		case *pgproto3.CommandComplete, *pgproto3.CopyDone:
			// How a server that shuts down in good order takes its leave.
			return &Error{Code: CodeServerStopping, Detail: "the server ended the stream"}
		}
	}
}

// notice looks at what the server says beside the stream. It says it in its own
// language, so state and source file tell what it is.
func (s *Stream) notice(msg *pgproto3.NoticeResponse) error {
	switch {
	case msg.File == "slot.c":
		// It waits for a standby of synchronized_standby_slots that is away, and
		// says so every second or two.
		s.heldBack = true
		s.r.record(func(st *Stats) { st.HeldBack, st.HeldBackAt = msg.Message, time.Now() })
	case msg.Code == "55000":
		// PostgreSQL 18 goes on without a publication that it cannot find, and
		// drops what it would have published.
		return &Error{Code: CodePublication, Detail: "the server streams without the publication: " + msg.Message,
			Fix: "the publication was dropped or is younger than the slot's position. Where it is missing: " + createPublication(&s.r.cfg) + ". " + newSlotFix(&s.r.cfg)}
	default:
		s.r.cfg.Logger.Info("notice from the server", "message", msg.Message)
	}
	return nil
}

func (s *Stream) copyData(ctx context.Context, data []byte, h Handler) error {
	var e envelope
	if err := decodeEnvelope(data, &e); err != nil {
		return malformed(err)
	}
	if e.kind == 'k' {
		s.keepalive(&e)
		return nil
	}
	s.see(e.start)
	if s.heldBack {
		s.heldBack = false
		s.r.record(func(st *Stats) { st.HeldBack = "" })
	}
	var f frame
	if err := s.decoder.decode(e.data, &f); err != nil {
		return s.unreadable(err)
	}
	return s.handle(ctx, &f, h)
}

// unreadable is malformed for a part of the open transaction, with the command
// that leaves that out.
func (s *Stream) unreadable(err error) *Error {
	e := malformed(err)
	if s.tx.open {
		e.Detail += fmt.Sprintf(", in the transaction that commits at %s", s.tx.commit)
		e.Fix += fmt.Sprintf(". To go on without anything of that transaction: outboxd skip --pipeline %s --to %s --reason TEXT", s.r.cfg.Pipeline, s.tx.commit+1)
	}
	return e
}

// keepalive enters the server's position into the queue: what comes before it
// in the byte stream comes before it in the WAL. Inside a transaction it
// carries that transaction's own commit LSN, which confirms nothing and would
// skip everything if it did.
func (s *Stream) keepalive(e *envelope) {
	if !s.tx.open {
		s.see(e.end)
		s.r.queue.mark(e.end)
	}
	if e.reply {
		s.asked.Store(true)
		s.poke()
	}
}

// handle moves the session on by one pgoutput message.
func (s *Stream) handle(ctx context.Context, f *frame, h Handler) error {
	switch f.kind {
	case 'B':
		if s.tx.open {
			return malformed(fmt.Errorf("begin at %s inside the transaction at %s", f.lsn, s.tx.commit))
		}
		s.tx = transaction{open: true, commit: f.lsn, time: f.time, xid: f.xid}
	case 'C':
		if !s.tx.open || f.lsn != s.tx.commit {
			return malformed(fmt.Errorf("commit at %s does not end the transaction at %s", f.lsn, s.tx.commit))
		}
		s.tx.open = false
		s.forget()
		s.see(f.endLSN)
		s.r.queue.mark(f.endLSN)
	case 'M':
		if !f.transactional {
			// It is in the WAL whether or not its transaction committed: never
			// an event, but a position like any other.
			if !s.tx.open {
				s.r.queue.mark(f.lsn)
			}
			return nil
		}
		return s.deliver(ctx, Message{Kind: Logical, Prefix: f.prefix, Content: f.content}, h)
	case 'R':
		return s.readable(f.relation)
	case 'I':
		return s.deliver(ctx, Message{Kind: Insert, Relation: f.relation, Row: f.row}, h)
	}
	return nil
}

// readable ends a session in binary format before rows of the pipeline's table
// come whose types are read as text only. The stream describes the table as it was
// when they were written: today's types, by which the session chose, may be others.
func (s *Stream) readable(rel *Relation) error {
	if rel == nil || !s.binary || rel.Schema+"."+rel.Name != s.r.cfg.Table || BinarySafe(rel.types()) {
		return nil
	}
	s.r.textOnly = true
	return &Error{Code: CodeColumnTypes, Detail: fmt.Sprintf("the types of the columns of table %s have changed, or were others when its rows were written: the next session reads them as text", s.r.cfg.Table)}
}

// deliver hands one message of the open transaction to h.
func (s *Stream) deliver(ctx context.Context, m Message, h Handler) error {
	if !s.tx.open {
		return malformed(errors.New("a change outside of a transaction"))
	}
	if s.sinceWait >= 256 {
		s.sinceWait = 0
		if err := s.r.queue.wait(ctx); err != nil {
			return err
		}
	}
	m.XID, m.Commit, m.CommitTime, m.next = s.tx.xid, s.tx.commit, s.tx.time, s.message.next
	s.message = m
	return h(ctx, &s.message)
}

// forget lets go of the last message: while nothing comes, a large one would
// keep the buffer that was made for it.
func (s *Stream) forget() {
	s.message = Message{next: s.message.next}
	clear(s.decoder.row)
}

// next is Message.Next.
func (s *Stream) next() (Delivery, bool) {
	p := place{commit: s.tx.commit, ordinal: s.tx.ordinal}
	s.sinceWait++
	s.tx.ordinal++
	token, fresh := s.r.queue.event(p, s.tx.time)
	return Delivery{Position: Position{Epoch: s.epoch, Commit: p.commit, Ordinal: p.ordinal}, Token: token}, fresh
}

// see raises the highest LSN received. Only Run writes it.
func (s *Stream) see(lsn LSN) {
	if uint64(lsn) > s.received.Load() {
		s.received.Store(uint64(lsn))
	}
}

// poke makes the status writer look again, now.
func (s *Stream) poke() { wake(s.wake) }

// Guard returns an error when the right to publish cannot be proven: for half
// of wal_sender_timeout nobody has seen the slot in our hands. A successor can
// have it only after the whole of that timeout, so what we write before the
// guard refuses cannot come behind what the successor publishes, but for bytes
// already in the kernel's buffers. It also refuses once another relay is known
// to hold the slot. It is a publisher.Guard.
func (s *Stream) Guard() error {
	if e, ok := context.Cause(s.ctx).(*Error); ok && e.Code == CodeLostLead {
		return e
	}
	if age := time.Since(s.started) - time.Duration(s.leasedAt.Load()); age > s.timeout/2 {
		return &Error{Code: CodeLostLead, Detail: fmt.Sprintf("no sign for %s that slot %q is still held", age.Round(time.Millisecond), s.r.cfg.Slot)}
	}
	return nil
}

// Lost is closed when the session has ended by itself, also after Run has
// returned: acks that come now can no longer be confirmed in it, or the server
// waits for us to let go. Close closes it too.
func (s *Stream) Lost() <-chan struct{} { return s.ctx.Done() }

// Close makes the acked position durable, confirms it and ends both
// connections, within ctx. Events not acked by now are sent again in the next
// session. It returns an error when the position could not be made durable or
// the server did not take it: events may then be published twice.
func (s *Stream) Close(ctx context.Context) error {
	if s.closed {
		return nil
	}
	s.closed = true
	defer context.AfterFunc(ctx, s.abort)()
	s.stop()
	s.done.Wait()
	err := s.keeper.finish()
	if err == nil && s.ctx.Err() == nil {
		err = s.farewell(ctx)
	}
	s.fail(net.ErrClosed)
	s.abort()
	_ = s.conn.Close()
	closeSQL(s.keeper.conn)
	s.r.record(func(st *Stats) { st.Streaming = false })
	return err
}
