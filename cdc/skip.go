package cdc

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Skip is a part of the stream that an operator wants left out: a single event,
// or everything up to a position.
type Skip struct {
	// From is the position up to which the pipeline has published, To that of
	// the event, or the LSN below which nothing more is published.
	From, To string
	// Rows is the most rows of the table that this can leave out; -1: not
	// known.
	Rows int64

	witness witness // as it is to become
}

// FindSkip looks whether the pipeline can go on behind the transactions that
// commit before to. The slot must be free. Nothing is changed.
func FindSkip(ctx context.Context, cfg Config, to LSN) (Skip, error) {
	var s Skip
	err := withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		w, end, err := stopped(ctx, sql, &cfg)
		if err != nil {
			return err
		}
		if to <= w.acked.confirm || to > end {
			return &Error{Code: CodeSkipped, Detail: fmt.Sprintf("%s is not ahead of the pipeline: it has published everything before %s, and the server's WAL ends at %s", to, w.acked.confirm, end),
				Fix: "name an LSN between the two, such as the one in the error that the relay stopped with"}
		}
		s = Skip{From: w.acked.confirm.String(), To: to.String(), witness: *w}
		s.witness.acked.confirm = to
		s.Rows, err = rowsFrom(ctx, sql, &cfg, w.floor)
		return err
	})
	return s, err
}

// FindSkipEvent looks whether the event at p can be left out, and nothing else.
// The slot must be free. Nothing is changed.
func FindSkipEvent(ctx context.Context, cfg Config, p Position) (Skip, error) {
	var s Skip
	err := withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		w, end, err := stopped(ctx, sql, &cfg)
		if err != nil {
			return err
		}
		detail := ""
		switch pending := w.toSkip(); {
		case p.Epoch != w.epoch:
			detail = fmt.Sprintf("the pipeline is in epoch %d: positions of epoch %d are from another history", w.epoch, p.Epoch)
		case w.acked.covers(place{p.Commit, p.Ordinal}):
			detail = "the event there was published or skipped before"
		case p.Commit > end:
			detail = fmt.Sprintf("the server's WAL ends at %s", end)
		case pending != nil && *pending != p:
			detail = fmt.Sprintf("the event at %s is still to be skipped: start the relay first, so that it gets there", pending)
		}
		if detail != "" {
			return &Error{Code: CodeSkipped, Detail: fmt.Sprintf("no event can be skipped at %s: %s", p, detail), Fix: "take the position from the error that the relay stopped with"}
		}
		s = Skip{From: w.acked.confirm.String(), To: p.String(), Rows: 1, witness: *w}
		s.witness.skip = p.String()
		return nil
	})
	return s, err
}

// Accept makes the pipeline leave out what was found, from the next session on.
// It refuses when a relay wrote the witness since.
func (s Skip) Accept(ctx context.Context, cfg Config, reason string) error {
	w := s.witness
	w.holder = "skip"
	return withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		return pgx.BeginFunc(ctx, sql, func(tx pgx.Tx) error {
			if err := updateWitness(ctx, tx, &cfg, &w); err != nil {
				return err
			}
			if err := noteSkip(ctx, tx, &cfg, w.skip); err != nil {
				return err
			}
			return audit(ctx, tx, &cfg, deed{"skip", s.From, s.To, reason})
		})
	})
}

// PendingGap returns the floor of the gap that was accepted and is still to be
// replayed, empty when there is none, and how many rows of the table it may hold
// (-1: not known).
func PendingGap(ctx context.Context, cfg Config) (floor string, rows int64, err error) {
	err = withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		w, err := readWitness(ctx, sql, cfg.Pipeline)
		if err != nil || w == nil {
			return err
		}
		floor = w.gap
		rows, err = rowsFrom(ctx, sql, &cfg, floor)
		return err
	})
	return floor, rows, err
}

// stopped returns the witness of a pipeline that no relay works for and that has
// no gap, and the end of the durable WAL.
func stopped(ctx context.Context, sql *pgx.Conn, cfg *Config) (*witness, LSN, error) {
	srv, err := inspectServer(ctx, sql)
	if err != nil {
		return nil, 0, err
	}
	w, err := readWitness(ctx, sql, cfg.Pipeline)
	if err != nil {
		return nil, 0, err
	}
	st, err := freeSlot(ctx, sql, srv.version, cfg, w)
	if err != nil {
		return nil, 0, err
	}
	if w == nil {
		return nil, 0, &Error{Code: CodeSkipped, Detail: fmt.Sprintf("pipeline %s has not published anything yet", cfg.Pipeline), Fix: "start the relay first"}
	}
	system, err := identify(ctx, cfg, srv)
	if err != nil {
		return nil, 0, err
	}
	err = checkSystem(cfg, w, system.SystemID, system.Timeline)
	if err == nil {
		err = checkRestored(cfg, w)
	}
	if err == nil {
		err = checkConfirmed(cfg, st, w)
	}
	if err == nil && system.Timeline != w.timeline {
		err = &Error{Code: CodeSkipped, Detail: fmt.Sprintf("the server is on timeline %d, where positions of timeline %d may mean something else", system.Timeline, w.timeline),
			Fix: "start the relay first: it follows the server, and names the position again if it stops"}
	}
	return w, system.XLogPos, err
}

// toSkip returns the position of the event that is to be skipped and has not
// been yet, nil when there is none. One of another epoch is none: the LSN may be
// another event's there.
func (w *witness) toSkip() *Position {
	p, err := ParsePosition(w.skip)
	if err != nil || p.Epoch != w.epoch || w.acked.covers(place{p.Commit, p.Ordinal}) {
		return nil
	}
	return &p
}

// noteSkip makes position that of the event to be skipped; empty: none.
func noteSkip(ctx context.Context, conn execer, cfg *Config, position string) error {
	if _, err := conn.Exec(ctx, "UPDATE outboxd.witness SET skip_position = $2 WHERE pipeline = $1", cfg.Pipeline, position); err != nil {
		return schemaError("note the skip", cfg.Pipeline, err)
	}
	return nil
}

// skip tells the queue of the event that the witness w wants skipped. Under
// another configuration the ordinals may count other events: then it is not
// skipped, in no later session either, and if it stops the relay again it can be
// skipped again.
func (r *Reader) skip(ctx context.Context, conn execer, w *witness) error {
	p := w.toSkip()
	if p == nil {
		return nil
	}
	log := r.cfg.Logger.With("position", p.String())
	if w.configHash != r.cfg.ConfigHash {
		log.Warn("an event that was to be skipped is not: the configuration is another than the one it was found under")
		w.skip = ""
		return noteSkip(ctx, conn, &r.cfg, w.skip)
	}
	if r.queue.skip(place{p.Commit, p.Ordinal}) {
		log.Warn("an event is going to be skipped, as an operator asked for")
	}
	return nil
}

// ParseLSN reads an LSN as PostgreSQL writes it: 16/B374D848.
func ParseLSN(text string) (LSN, error) {
	var lsn LSN
	if err := lsn.Scan(strings.TrimSpace(text)); err != nil {
		return 0, fmt.Errorf("parse LSN %q: want two hexadecimal numbers as in 16/B374D848", text)
	}
	return lsn, nil
}
