package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// witness is the pipeline's row in outboxd.witness: what it knows of its own
// past. It is written ahead: the server is told to confirm a position only when
// the row says so already. Hence three things the slot alone cannot say:
//
//   - a slot that stands beyond the witness was moved by someone else;
//   - a slot that is missing did once exist;
//   - what the server sends again, because it saves slots lazily, was published
//     before and is skipped.
//
// It is a filter and a witness, never a starting point: the server decides
// where the stream begins.
type witness struct {
	systemID    string
	timeline    int32
	epoch       uint16
	slot        string
	configHash  string
	fingerprint string
	floor       string // replay floor: an xid8
	gap         string // floor of a gap that is to be replayed, an xid8; empty: there is none
	skip        string // position of the event to be skipped; empty: there is none
	published   string // position up to which was published before a restore; empty: there was none
	acked       progress
	checked     LSN   // acked when the publication was last found as it was
	version     int64 // rises with each write
	holder      string
}

// execer is a connection or a transaction on it.
type execer interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
}

const witnessColumns = `system_id, timeline, epoch, slot, config_hash, publication_fingerprint, replay_floor,
	acked_lsn, acked_commit, acked_events, checked_lsn, version, holder, gap_floor, skip_position, published_position`

// readWitness returns the pipeline's row, or nil when there is none.
func readWitness(ctx context.Context, conn *pgx.Conn, pipeline string) (*witness, error) {
	var (
		w      witness
		epoch  int32
		events int64
	)
	err := conn.QueryRow(ctx, "SELECT "+witnessColumns+" FROM outboxd.witness WHERE pipeline = $1", pipeline).Scan(
		&w.systemID, &w.timeline, &epoch, &w.slot, &w.configHash, &w.fingerprint, &w.floor,
		&w.acked.confirm, &w.acked.commit, &events, &w.checked, &w.version, &w.holder, &w.gap, &w.skip, &w.published)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, schemaError("read the witness", pipeline, err)
	}
	w.epoch, w.acked.events = uint16(epoch), uint32(events)
	return &w, nil
}

// schemaError names why a query on the schema outboxd failed.
func schemaError(what, pipeline string, err error) *Error {
	detail := "the schema outboxd is missing in this database"
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr):
		return queryError(what, err)
	case pgErr.Code == "42703":
		detail = "the schema outboxd in this database is older than this program"
	case pgErr.Code != "42P01" && pgErr.Code != "3F000":
		return queryError(what, err)
	}
	return &Error{Code: CodeNotSetUp, Detail: detail, Err: err,
		Fix: fmt.Sprintf("outboxd setup --pipeline %s, or run with --setup", pipeline)}
}

// insertWitness writes the first row of a pipeline. It fails when there is one.
func insertWitness(ctx context.Context, conn *pgx.Conn, cfg *Config, w *witness) error {
	_, err := conn.Exec(ctx, `INSERT INTO outboxd.witness (pipeline, publication, outbox_table, system_id, timeline, epoch, slot,
		config_hash, publication_fingerprint, replay_floor, acked_lsn, acked_commit, acked_events, checked_lsn, version, holder)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::pg_lsn, $12::pg_lsn, $13, $14::pg_lsn, $15, $16)`,
		cfg.Pipeline, cfg.Publication, cfg.Table, w.systemID, w.timeline, int32(w.epoch), w.slot, w.configHash, w.fingerprint,
		w.floor, w.acked.confirm.String(), w.acked.commit.String(), int64(w.acked.events), w.checked.String(), w.version, w.holder)
	if err != nil {
		return witnessError(err)
	}
	return nil
}

// updateWitness replaces the row by w, one version further than before, if it
// is still the one that w was read or written from.
//
// The condition fences a leader that lost its slot without noticing: it was
// stopped in the middle, another relay took the slot and wrote the row; when
// the first goes on, its update finds another version and touches nothing.
//
// What was noted beside it, a gap, a skip or a restore, is left as it is.
func updateWitness(ctx context.Context, conn execer, cfg *Config, w *witness) error {
	tag, err := conn.Exec(ctx, `UPDATE outboxd.witness SET publication = $2, outbox_table = $3, system_id = $4, timeline = $5, epoch = $6,
		slot = $7, config_hash = $8, publication_fingerprint = $9, replay_floor = $10, acked_lsn = $11::pg_lsn,
		acked_commit = $12::pg_lsn, acked_events = $13, checked_lsn = $14::pg_lsn, holder = $15, version = version + 1, updated_at = now()
		WHERE pipeline = $1 AND version = $16`,
		cfg.Pipeline, cfg.Publication, cfg.Table, w.systemID, w.timeline, int32(w.epoch), w.slot, w.configHash, w.fingerprint,
		w.floor, w.acked.confirm.String(), w.acked.commit.String(), int64(w.acked.events), w.checked.String(), w.holder, w.version)
	if err != nil {
		return witnessError(err)
	}
	if tag.RowsAffected() == 0 {
		return &Error{Code: CodeLostLead, Detail: fmt.Sprintf("the witness of pipeline %s was written by someone else: another relay has taken over", cfg.Pipeline)}
	}
	w.version++
	return nil
}

// witnessError names why the witness could not be written.
func witnessError(err error) *Error {
	e := queryError("write the witness", err)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "25006" || pgErr.Code == "55P03") { // read-only; locked
		e.Code, e.Fix = CodeWitness, witnessFix
	}
	return e
}

const witnessFix = "look for a lock on the table outboxd.witness, and for default_transaction_read_only"

// checkSystem compares the server's identity with the witness. A new timeline
// alone is no gap: switchover and failover begin one.
func checkSystem(cfg *Config, w *witness, systemID string, timeline int32) error {
	if w.systemID != systemID {
		return &Error{Code: CodeSystemChanged,
			Detail: fmt.Sprintf("this database cluster has the system identifier %s, and pipeline %s published from %s: another cluster, an upgrade or a dump that was restored", systemID, cfg.Pipeline, w.systemID),
			Fix:    "check --database. To go on with this cluster: " + overGap(cfg)}
	}
	if timeline < w.timeline {
		return &Error{Code: CodeRestored,
			Detail: fmt.Sprintf("the server is on timeline %d, and pipeline %s published from timeline %d: an old primary, or a restored backup", timeline, cfg.Pipeline, w.timeline),
			Fix:    fmt.Sprintf("check that --database names the current primary. If it does: outboxd adopt --pipeline %s", cfg.Pipeline)}
	}
	return nil
}

// formerPrimary says that the server was left behind by a failover that this
// process has followed. Its witness was left behind too: only memory knows. It
// may be up again for a moment, or where the name still leads; to wait for the
// current primary is right, and to begin anew, without the memory, is not: who
// wants that tells adopt what this process knows.
func formerPrimary(cfg *Config, last *witness, timeline int32) *Error {
	return &Error{Code: CodeNotPrimary,
		Detail: fmt.Sprintf("the server is on timeline %d, and pipeline %s has published from timeline %d: it was the primary before the last failover, and takes writes again", timeline, cfg.Pipeline, last.timeline),
		Fix: fmt.Sprintf("stop that server, or make it a standby of the current primary. What was written to it since is not published. To go on with it for good: stop the relay, then outboxd adopt --pipeline %s --published %s",
			cfg.Pipeline, last.upTo())}
}

// upTo is the position up to which the pipeline has published.
func (w *witness) upTo() Position { return Position{Epoch: w.epoch, Commit: w.acked.confirm} }

// checkMemory compares the row with what this process wrote last. Between the
// two sessions another relay may have led; that raises the version. A lower
// version, or other content under the same one, means that the database was
// restored to an earlier state while we were away.
func checkMemory(cfg *Config, last, now *witness) error {
	if now != nil && (now.version > last.version || now.version == last.version && now.acked == last.acked) {
		return nil
	}
	detail := fmt.Sprintf("the witness of pipeline %s is gone", cfg.Pipeline)
	if now != nil {
		detail = fmt.Sprintf("the witness of pipeline %s says version %d, acked %s; this process wrote version %d, acked %s", cfg.Pipeline, now.version, now.acked.confirm, last.version, last.acked.confirm)
	}
	return restored(cfg, detail)
}

// checkRestored says that the database was restored to an earlier state, if
// somebody noted it.
func checkRestored(cfg *Config, w *witness) error {
	if w == nil || w.published == "" {
		return nil
	}
	return restored(cfg, fmt.Sprintf("pipeline %s has published up to %s, and its witness says epoch %d, acked %s", cfg.Pipeline, w.published, w.epoch, w.acked.confirm))
}

func restored(cfg *Config, detail string) *Error {
	return &Error{Code: CodeRestored, Detail: detail + ": the database was restored to an earlier state, or is a copy",
		Fix: fmt.Sprintf("check that --database names the right server. If it does, to go on with what it has: outboxd adopt --pipeline %s, which says whether anything is to be replayed", cfg.Pipeline)}
}

// noteRestored makes position that up to which was published before a restore;
// empty: there was none.
func noteRestored(ctx context.Context, conn execer, cfg *Config, position string) error {
	if _, err := conn.Exec(ctx, "UPDATE outboxd.witness SET published_position = $2 WHERE pipeline = $1", cfg.Pipeline, position); err != nil {
		return schemaError("note the restore", cfg.Pipeline, err)
	}
	return nil
}

// branch returns what is acked of from when the server has moved from timeline
// old to a newer one: LSNs at and above the point where old was left are used
// again for other transactions.
func branch(from progress, switchPoint LSN) progress {
	g := from
	g.confirm = min(g.confirm, switchPoint)
	if g.commit >= switchPoint {
		g.commit, g.events = 0, 0
	}
	return g
}

// timelineHistory returns the history file of timeline, which has a line for
// each timeline before it: number, position where it was left, reason. The first
// timeline has none. It must be asked for before the stream begins: a walsender
// that streams takes no commands.
func timelineHistory(ctx context.Context, conn *pgconn.PgConn, timeline int32) (string, error) {
	if timeline == 1 {
		return "", nil
	}
	h, err := pglogrepl.TimelineHistory(ctx, conn, timeline)
	if err != nil {
		return "", queryError("read the timeline history", err)
	}
	return string(h.Content), nil
}

// switchPoint returns where the timeline old was left, according to the history
// of the server's.
func switchPoint(cfg *Config, history string, old int32) (LSN, error) {
	for line := range strings.Lines(history) {
		var (
			timeline int32
			at       string
		)
		if n, _ := fmt.Sscan(line, &timeline, &at); n != 2 || timeline != old {
			continue
		}
		if lsn, err := pglogrepl.ParseLSN(at); err == nil {
			return lsn, nil
		}
	}
	return 0, &Error{Code: CodeRestored, Detail: fmt.Sprintf("timeline %d is not in the history of this server: it did not come from the one that was published from", old),
		Fix: fmt.Sprintf("check that --database names the current primary. If it does: outboxd adopt --pipeline %s goes on from the slot's position", cfg.Pipeline)}
}

// slotOwner returns the pipeline other than cfg's that has the slot in its
// witness, "" when none has.
func slotOwner(ctx context.Context, conn *pgx.Conn, cfg *Config) (string, error) {
	var owner string
	err := conn.QueryRow(ctx, "SELECT coalesce(min(pipeline), '') FROM outboxd.witness WHERE slot = $1 AND pipeline <> $2", cfg.Slot, cfg.Pipeline).Scan(&owner)
	if err != nil {
		return "", queryError("look whose slot it is", err)
	}
	return owner, nil
}
