package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// Gap is what stands between a pipeline's witness and the server: the reasons
// why a reader refuses to go on by itself.
type Gap struct {
	// Findings has a sentence for each difference; none: there is no gap.
	Findings []string
	// Acked is the last position that the pipeline published everything
	// before. Slot is where the slot stands and the stream would go on; 0: it
	// is not known before there is a new slot.
	Acked, Slot LSN
	// NewSlot: the slot is gone or of no use. The caller makes another one,
	// after dropping what is left of the old, before it accepts the gap.
	NewSlot bool
	// Complete: the slot has everything that was not published, and the gap is
	// none but for the positions, which begin a new epoch.
	Complete bool
	// Floor is an xid8: every row of the table that may not have been published
	// has this xid or a later one. It also covers a gap that was accepted
	// before and not replayed. Empty: there is nothing to replay.
	Floor string
	// Rows is how many rows of the table that is; -1: not known.
	Rows int64
	// Epoch is the one that the pipeline has, or gets when the gap is
	// accepted.
	Epoch uint16

	moved   bool     // the witness takes over the slot's position
	witness *witness // as it is to become
}

// FindGap compares witness, slot, system and publication. The publication must
// cover the table and the slot, if there is one, must be free: what can still be
// mended must be mended first. cfg needs Database, Pipeline, Slot, Publication
// and Table.
//
// published, unless it is zero, is the position of an event that a broker has.
// If it is beyond the witness the database was restored to an earlier state,
// which it does not know itself.
func FindGap(ctx context.Context, cfg Config, published Position) (Gap, error) {
	var g Gap
	err := withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		srv, err := inspectServer(ctx, sql)
		if err != nil {
			return err
		}
		w, err := readWitness(ctx, sql, cfg.Pipeline)
		if err != nil {
			return err
		}
		st, err := freeSlot(ctx, sql, srv.version, &cfg, w)
		gone := slotGone(w, err)
		if err != nil && gone == nil {
			return err
		}
		pub, err := inspectPublication(ctx, sql, srv.version, &cfg)
		if err != nil {
			return err
		}
		if w == nil {
			g = Gap{Acked: st.confirmed, Slot: st.confirmed, Epoch: 1}
			return nil // outboxd run adopts a slot that has no past
		}
		if err := w.told(&cfg, published); err != nil {
			return err
		}
		system, err := identify(ctx, &cfg, srv)
		if err != nil {
			return err
		}
		g = compare(&cfg, w, st, gone, pub, system)
		g.Rows, err = rowsFrom(ctx, sql, &cfg, g.Floor)
		return err
	})
	return g, err
}

// told takes note of a position that was published.
func (w *witness) told(cfg *Config, published Position) error {
	switch p := published; {
	case p == Position{}:
	case p.Epoch < w.epoch || p.Epoch == w.epoch && w.acked.covers(place{p.Commit, p.Ordinal}):
		return &Error{Code: CodeConfig, Detail: fmt.Sprintf("pipeline %s knows that %s was published: it is in epoch %d and has published everything before %s", cfg.Pipeline, p, w.epoch, w.acked.confirm),
			Fix: "to show that the database was restored, give the ce_sequence of the last record that was published"}
	default:
		w.published = p.String()
	}
	return nil
}

// slotGone returns err if it says that a slot, which the witness knows, can be
// replaced only.
func slotGone(w *witness, err error) *Error {
	var e *Error
	if w != nil && errors.As(err, &e) && (e.Code == CodeSlotMissing || e.Code == CodeSlotLost) {
		return e
	}
	return nil
}

// freeWait is how long a server may take to notice that the relay which held
// the slot has just stopped.
const freeWait = 5 * time.Second

// freeSlot returns the slot once nobody holds it any more.
func freeSlot(ctx context.Context, sql *pgx.Conn, version int, cfg *Config, w *witness) (*slotState, error) {
	for deadline := time.Now().Add(freeWait); ; {
		st, err := readSlot(ctx, sql, version, cfg.Slot)
		if err == nil {
			err = checkSlot(cfg, st, w)
		}
		if err == nil || asError(err).Code != CodeSlotActive || time.Now().After(deadline) {
			return st, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Accept makes the server's state the pipeline's: the next session begins where
// the slot stands now, in a new epoch, and the gap is noted to be replayed. It
// returns that position. It refuses when a relay wrote the witness since the gap
// was found.
func (g Gap) Accept(ctx context.Context, cfg Config) (LSN, error) {
	if len(g.Findings) == 0 {
		return g.Acked, nil
	}
	w := *g.witness
	err := withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		if g.moved {
			srv, err := inspectServer(ctx, sql)
			if err != nil {
				return err
			}
			st, err := freeSlot(ctx, sql, srv.version, &cfg, &w)
			if err != nil {
				return err
			}
			w.acked, w.checked = progress{confirm: st.confirmed}, st.confirmed
		}
		return pgx.BeginFunc(ctx, sql, func(tx pgx.Tx) error {
			if err := updateWitness(ctx, tx, &cfg, &w); err != nil {
				return err
			}
			if err := noteGap(ctx, tx, &cfg, g.Floor); err != nil {
				return err
			}
			if err := noteRestored(ctx, tx, &cfg, ""); err != nil {
				return err
			}
			return audit(ctx, tx, &cfg, deed{"adopt", g.Acked.String(), w.acked.confirm.String(), strings.Join(g.Findings, "; ")})
		})
	})
	return w.acked.confirm, err
}

// compare lists what differs and says what the witness becomes. gone says what
// became of a slot that is of no use any more.
func compare(cfg *Config, w *witness, st *slotState, gone *Error, pub publication, system identity) Gap {
	g := Gap{Acked: w.acked.confirm, Floor: w.gap, Epoch: w.epoch}
	g.find(checkSystem(cfg, w, system.SystemID, system.Timeline))
	g.find(checkRestored(cfg, w))
	// The positions and the publication of another cluster compare with nothing.
	another := w.systemID != system.SystemID
	switch {
	case gone != nil:
		g.NewSlot = true
		g.find(gone)
	case !another:
		g.Slot = st.confirmed
		g.find(checkConfirmed(cfg, st, w))
	case pub.readableWith(st):
		g.Slot = st.confirmed
	default:
		g.NewSlot = true
	}
	// After a restore the same LSN may mean less than it did, also where the
	// comparison finds nothing.
	if len(g.Findings) == 0 && w.acked.confirm > system.XLogPos {
		g.Findings = append(g.Findings, fmt.Sprintf("the pipeline published up to %s, and the server's WAL ends at %s: it was restored to an earlier state", w.acked.confirm, system.XLogPos))
	}
	g.moved = len(g.Findings) > 0
	if !another {
		g.find(checkFingerprint(cfg, pub, w))
		if recreated(pub, w) {
			g.NewSlot, g.moved, g.Slot = true, true, 0 // the slot is older than its publication
		}
	}
	if len(g.Findings) == 0 {
		return g
	}
	next := *w
	next.fingerprint, next.holder = pub.fingerprint, "adopt"
	next.floor = validFloor(cfg, w, system)
	if g.moved {
		next.systemID, next.timeline, next.epoch = system.SystemID, system.Timeline, w.lastEpoch()+1
		next.slot = cfg.Slot
	} else {
		g.Slot = w.acked.confirm // the positions are what they were
		next.checked = next.acked.confirm
	}
	// A restored database has a slot and a witness of the same moment: only the
	// epoch is wrong, and the witness filters what the slot sends again.
	g.Complete = w.published != "" && len(g.Findings) == 1 && system.Timeline == w.timeline
	if g.Complete {
		g.moved, g.Slot = false, w.acked.confirm
	}
	if cfg.Table != "" && !g.Complete {
		g.Floor = widened(w.gap, next.floor)
	}
	g.Epoch, g.witness = next.epoch, &next
	return g
}

// lastEpoch is the latest in which anything was published.
func (w *witness) lastEpoch() uint16 {
	p, err := ParsePosition(w.published)
	if err != nil {
		return w.epoch
	}
	return max(w.epoch, p.Epoch)
}

// find adds what err found, if it found something.
func (g *Gap) find(err error) {
	if e, ok := err.(*Error); ok {
		g.Findings = append(g.Findings, e.Detail)
	}
}

// identity is what the server says of itself on a replication connection.
type identity struct {
	pglogrepl.IdentifySystemResult
	history string // of its timeline
}

// identify asks for system identifier and timeline, which takes a replication
// connection.
func identify(ctx context.Context, cfg *Config, srv server) (identity, error) {
	conn, err := connectReplication(ctx, cfg, srv.version, senderTimeout(srv.senderTimeout))
	if err != nil {
		return identity{}, err
	}
	defer closeReplication(conn)
	system, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return identity{}, queryError("identify the system", err)
	}
	history, err := timelineHistory(ctx, conn, system.Timeline)
	return identity{system, history}, err
}

// withSQL runs f with an SQL connection of its own.
func withSQL(ctx context.Context, cfg *Config, f func(*pgx.Conn) error) error {
	conn, err := connectSQL(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeSQL(conn)
	return f(conn)
}
