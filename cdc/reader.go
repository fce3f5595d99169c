package cdc

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// openTimeout bounds Open.
const openTimeout = 30 * time.Second

// Config says which slot to follow and how. The zero value of what is not
// marked required is a documented default.
type Config struct {
	// Database is a connection string or URL as pgx takes it; empty parts
	// come from PG* variables.
	Database string
	// Pipeline names the row of the witness. Required.
	Pipeline string
	// Slot and Publication must exist. Required.
	Slot, Publication string
	// Table is the outbox table that the publication must cover: schema.name
	// as the catalog has them, unquoted. Empty: logical messages only.
	Table string
	// CheckColumns, unless nil, is given the names of the published columns of
	// Table when a session opens; its error ends that, as the Err of an *Error.
	CheckColumns func(published []string) error
	// ConfigHash is compared with the leader's while this reader stands by.
	ConfigHash string
	Logger     *slog.Logger // nil: discards
	// MaxRetainedWAL is how many bytes of WAL the slot may keep. Beyond it the
	// log says so and Stats tells. 0: any.
	MaxRetainedWAL int64
	// DropSlot: beyond MaxRetainedWAL end the session and drop the slot, with a
	// row in outboxd.audit. Open then fails with CodeSlotDropped. What was not
	// published is a gap.
	DropSlot bool
}

// quotedTable is Table for use in SQL.
func (c *Config) quotedTable() string {
	return pgx.Identifier(strings.SplitN(c.Table, ".", 2)).Sanitize()
}

// relation is Table, which has that OID; of a Relation no more than what it is
// known by.
func (c *Config) relation(oid uint32) Relation {
	schema, name, _ := strings.Cut(c.Table, ".")
	return Relation{OID: oid, Schema: schema, Name: name}
}

func (c *Config) applicationName() string { return "outboxd " + c.Pipeline }

// Reader follows one slot, session after session. Open and the stream it
// returns are for one goroutine; Ack and Stats are for any.
type Reader struct {
	cfg    Config
	holder string // how this process signs the witness

	// queue belongs to all sessions; see there.
	queue *queue
	// last is the witness as this process wrote it last, nil before that.
	last *witness
	// textOnly: rows came that cannot be read in binary format, and may come again.
	textOnly bool
	// beyond: the slot kept more WAL than it may when it was last measured, and
	// the log knows. The keeper's.
	beyond bool

	mu    sync.Mutex
	stats Stats
}

// NewReader returns a reader that has not connected yet. It fails only on a
// configuration that can never work.
func NewReader(cfg Config) (*Reader, error) {
	if cfg.Pipeline == "" || cfg.Publication == "" {
		return nil, &Error{Code: CodeConfig, Detail: "pipeline and publication must not be empty"}
	}
	if !validSlot.MatchString(cfg.Slot) {
		return nil, &Error{Code: CodeConfig, Detail: fmt.Sprintf("slot name %q: only a-z, 0-9 and _ are allowed, 63 at most", cfg.Slot), Fix: "choose another --slot"}
	}
	if _, err := pgx.ParseConfig(cfg.Database); err != nil {
		return nil, stringError(err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Reader{cfg: cfg, holder: newHolder(), queue: newQueue(progress{})}, nil
}

// newHolder names this process to people, and tells it from every other one:
// in containers host names and process ids repeat.
func newHolder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s, process %d, run %08x", host, os.Getpid(), rand.Uint32())
}

// Holder is how this process signs the witness.
func (r *Reader) Holder() string { return r.holder }

// Ack says that the event of token is durably published. Each token at most
// once; any order, any goroutine, also between sessions.
func (r *Reader) Ack(token uint64) { r.queue.ack(token) }

// Stats is a snapshot for metrics and health.
type Stats struct {
	// Epoch of the current session; 0 before the first.
	Epoch uint16
	// Streaming: a session holds the slot.
	Streaming bool
	// LastReceived is when something last came from the walsender, to within
	// a second. SilenceLimit is how long it may stay silent before the session
	// is given up.
	LastReceived time.Time
	SilenceLimit time.Duration
	// HeldBack is why the server sends nothing although it has something to
	// send: a standby that it waits for is away, which it says itself, or
	// hangs, which it was asked. It was last so at HeldBackAt. Empty when
	// something came since.
	HeldBack   string
	HeldBackAt time.Time
	// Received is the highest LSN received, Acked the last confirmable
	// position of the acked prefix, Confirmed what the server was told.
	Received, Acked, Confirmed LSN
	// InFlight counts the events handed over and not acked; OldestUnacked is
	// the commit time of the first of them, zero when there is none.
	InFlight      int
	OldestUnacked time.Time
	// Slot is the slot as the server last described it (every 10 s).
	Slot SlotStats
}

// SlotStats is what the server says of the slot.
type SlotStats struct {
	At               time.Time // when it was read; zero: never
	RetainedBytes    int64     // current WAL position − restart_lsn
	RetainedLimit    int64     // how many bytes that may be; 0: any
	UnconfirmedBytes int64     // current WAL position − confirmed_flush_lsn
	SafeBytes        int64     // safe_wal_size; -1: no limit
	WALStatus        string
	CatalogXminAge   int64 // age(catalog_xmin), in transactions: since then vacuum removes no dead catalog rows
	SpillTxns        int64
	SpillBytes       int64
}

// Beyond says whether the slot kept more WAL than it may.
func (s SlotStats) Beyond() bool { return s.RetainedLimit > 0 && s.RetainedBytes > s.RetainedLimit }

// Stats returns what the reader knows now. Safe for concurrent use.
func (r *Reader) Stats() Stats {
	r.mu.Lock()
	st := r.stats
	r.mu.Unlock()
	st.Acked = r.queue.progress().confirm
	st.InFlight, st.OldestUnacked = r.queue.inFlight()
	return st
}

// record changes the stats.
func (r *Reader) record(change func(*Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.stats)
}

// Open begins a session: connects, checks everything that could be wrong,
// takes the slot and claims the witness. Its error is an *Error.
func (r *Reader) Open(ctx context.Context) (*Stream, error) {
	first := r.last == nil
	s, err := r.openStream(ctx, true)
	if err == nil && first && s.gap != "" {
		r.cfg.Logger.Warn("a gap that was accepted has not been replayed: its events are missing at the broker, and no partition of the table is emptied",
			"from_xid", s.gap, "fix", fmt.Sprintf("stop the relay, then with its flags outboxd replay --pipeline %s --gap; or, with its --config or --database, give the gap up: outboxd skip --pipeline %[1]s --gap --reason TEXT", r.cfg.Pipeline))
	}
	return s, err
}

// openStream is Open. standsBy: while another relay holds the slot, say whether
// that runs with another configuration.
func (r *Reader) openStream(ctx context.Context, standsBy bool) (*Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	sql, err := connectSQL(ctx, &r.cfg)
	if err != nil {
		return nil, err
	}
	s, err := r.open(ctx, sql, standsBy)
	if err != nil {
		closeSQL(sql)
		return nil, asError(err)
	}
	return s, nil
}

func (r *Reader) open(ctx context.Context, sql *pgx.Conn, standsBy bool) (*Stream, error) {
	srv, err := inspectServer(ctx, sql)
	if err != nil {
		return nil, err
	}
	if err := checkAsynchronous(ctx, sql, &r.cfg); err != nil {
		return nil, err
	}
	// First look: fail early, without disturbing a leader and without holding
	// the slot for a moment when an operator wants to mend it.
	w, err := r.look(ctx, sql, srv, standsBy)
	if err != nil {
		return nil, err
	}
	pub, err := inspectPublication(ctx, sql, srv.version, &r.cfg)
	if err != nil {
		return nil, err
	}
	pub.binary = pub.binary && !r.textOnly
	timeout := senderTimeout(srv.senderTimeout)
	repl, err := connectReplication(ctx, &r.cfg, srv.version, timeout)
	if err != nil {
		return nil, err
	}
	s, err := r.take(ctx, sql, repl, srv, w, pub, timeout)
	if err != nil {
		closeReplication(repl)
		return nil, err
	}
	return s, nil
}

// look checks slot and witness as far as that can be done without the slot, and
// returns the witness.
func (r *Reader) look(ctx context.Context, sql *pgx.Conn, srv server, standsBy bool) (*witness, error) {
	w, err := readWitness(ctx, sql, r.cfg.Pipeline)
	if err != nil {
		return nil, err
	}
	st, err := readSlot(ctx, sql, srv.version, r.cfg.Slot)
	if err != nil {
		return nil, err
	}
	if owner, err := slotOwner(ctx, sql, &r.cfg); err != nil {
		return nil, err
	} else if owner != "" {
		return nil, &Error{Code: CodeSlotWrong, Detail: fmt.Sprintf("slot %q belongs to pipeline %s", r.cfg.Slot, owner),
			Fix: fmt.Sprintf("run with --pipeline %s, or name another --slot", owner)}
	}
	if standsBy && st != nil && st.activePID != 0 && w != nil && w.configHash != "" && w.configHash != r.cfg.ConfigHash {
		return nil, &Error{Code: CodeConfigMismatch,
			Detail: fmt.Sprintf("the relay that leads pipeline %s (%s) runs with another configuration", r.cfg.Pipeline, w.holder),
			Fix:    "give both relays the same flags, or this one another --pipeline"}
	}
	if err := checkRestored(&r.cfg, w); err != nil {
		return nil, err
	}
	if err := checkSlot(&r.cfg, st, w); err != nil {
		if slotGone(w, err) != nil && r.last != nil && w.epoch < r.last.epoch {
			// A restored backup, as most without slots: adopt is to begin an epoch
			// behind those that were published.
			err = r.witnessed(ctx, sql, err)
		}
		return nil, r.leftover(standsBy, w, asError(err))
	}
	return w, dropBeyond(ctx, sql, &r.cfg, w)
}

// leftover returns err, unless it says that the slot is held and it must be us
// who hold it, for who does not stand by: nobody else has written the witness
// since our last session, which the server has not noticed to be over.
func (r *Reader) leftover(standsBy bool, w *witness, err *Error) error {
	if standsBy || err.Code != CodeSlotActive || r.last == nil || w == nil || w.holder != r.holder {
		return err
	}
	return &Error{Code: CodeUnreachable, Detail: "wait until the server has ended our last session", Err: err}
}

// take compares what w, which may be nil, and pub say with the server. Then it
// starts replication and, once the slot is ours and nobody else can write
// the witness lawfully, compares slot, witness and memory again and claims the
// witness. What look saw may be stale by now: the leader before us may have
// written until the moment it lost the slot.
func (r *Reader) take(ctx context.Context, sql *pgx.Conn, repl *pgconn.PgConn, srv server, w *witness, pub publication, timeout time.Duration) (*Stream, error) {
	system, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return nil, queryError("identify the system", err)
	}
	if err := checkSame(&r.cfg, w, system, pub); err != nil {
		return nil, err
	}
	history, err := timelineHistory(ctx, repl, system.Timeline)
	if err != nil {
		return nil, err
	}
	if err := startStream(ctx, repl, &r.cfg, pub.binary); err != nil {
		return nil, err
	}
	held := time.Now() // the slot is ours from here on, or was before this line
	w, err = readWitness(ctx, sql, r.cfg.Pipeline)
	if err != nil {
		return nil, err
	}
	st, err := readSlot(ctx, sql, srv.version, r.cfg.Slot)
	if err != nil {
		return nil, err
	}
	if st == nil || st.activePID != int(repl.PID()) {
		return nil, &Error{Code: CodeLostLead, Detail: fmt.Sprintf("slot %q was taken away right after it was acquired", r.cfg.Slot)}
	}
	if w == nil {
		w, err = r.adopt(ctx, sql, st, system, pub)
	} else {
		err = r.claim(ctx, sql, w, st, system, history, pub)
	}
	if err != nil {
		return nil, err
	}
	r.last = w
	s, err := newStream(r, sql, repl, srv.version, w, timeout, held)
	if err == nil {
		s.decoder.table, s.binary = r.cfg.relation(pub.table), pub.binary
	}
	return s, err
}

// startStream asks for the stream from wherever the slot stands.
func startStream(ctx context.Context, repl *pgconn.PgConn, cfg *Config, binary bool) error {
	args := []string{
		"proto_version '1'",
		"publication_names '" + quoteLiteral(pgx.Identifier{cfg.Publication}.Sanitize()) + "'",
		"messages 'true'",
	}
	if binary {
		args = append(args, "binary 'true'")
	}
	err := pglogrepl.StartReplication(ctx, repl, cfg.Slot, 0, pglogrepl.StartReplicationOptions{Mode: pglogrepl.LogicalReplication, PluginArgs: args})
	if err != nil {
		return startError(cfg, err)
	}
	return nil
}
