package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Hold is Open for who replays a gap: the session keeps the slot, and with it
// every relay of the pipeline, away until Close. Run Stream.Hold in it. It fails
// with CodeSlotActive only if somebody else has the slot.
func (r *Reader) Hold(ctx context.Context) (*Stream, error) { return r.openStream(ctx, false) }

// Hold is Run for a session that publishes nothing of the stream: it reads up to
// the first message and waits there. It returns what Run returns.
func (s *Stream) Hold(ctx context.Context) error {
	return s.Run(ctx, func(ctx context.Context, _ *Message) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
}

// Gap returns the floor of the gap that was accepted before the session began
// and is still to be replayed: an xid8, or empty when there is none. Every row
// of the table that belongs to the gap has this xid or a later one.
func (s *Stream) Gap() string { return s.gap }

// CloseGap notes that the gap with that floor needs no replay any more, because
// of what action did ("replay", "skip") up to the position to. It fails when
// that gap is not pending.
func CloseGap(ctx context.Context, cfg Config, floor, action, to, reason string) error {
	return withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		return pgx.BeginFunc(ctx, sql, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, "UPDATE outboxd.witness SET gap_floor = '' WHERE pipeline = $1 AND gap_floor = $2", cfg.Pipeline, floor)
			if err != nil {
				return schemaError("close the gap", cfg.Pipeline, err)
			}
			if tag.RowsAffected() == 0 {
				return &Error{Code: CodeNoGap, Detail: fmt.Sprintf("pipeline %s has no pending gap from xid %s: somebody closed or widened it meanwhile", cfg.Pipeline, floor),
					Fix: fmt.Sprintf("look at it: outboxd adopt --pipeline %s", cfg.Pipeline)}
			}
			return audit(ctx, tx, &cfg, deed{action, "xid " + floor, to, reason})
		})
	})
}

// noteGap makes floor that of the pipeline's pending gap.
func noteGap(ctx context.Context, conn execer, cfg *Config, floor string) error {
	if _, err := conn.Exec(ctx, "UPDATE outboxd.witness SET gap_floor = $2 WHERE pipeline = $1", cfg.Pipeline, floor); err != nil {
		return schemaError("note the gap", cfg.Pipeline, err)
	}
	return nil
}

// validFloor returns the witness's replay floor, or "0", every row, where the
// floor means nothing.
//
// A floor is an xid below which every transaction had ended, and its commit
// record been written, before a position that the witness has since passed. So
// it holds as long as the WAL up to the acked position is the server's own
// history: whatever became of the slot, and also on a newer timeline if that was
// branched off at or beyond this position. Transaction ids beyond the branch are
// used again, those of another cluster mean nothing, and a server whose WAL ends
// before the acked position has forgotten some.
func validFloor(cfg *Config, w *witness, system identity) string {
	if w.systemID != system.SystemID || system.Timeline < w.timeline || w.acked.confirm > system.XLogPos {
		return everything
	}
	if system.Timeline == w.timeline {
		return w.floor
	}
	if at, err := switchPoint(cfg, system.history, w.timeline); err != nil || w.acked.confirm > at {
		return everything
	}
	return w.floor
}

// everything is the floor below all rows.
const everything = "0"

// widened returns the floor of the gap that is pending already (or empty), and
// of another one. What is pending is the older, unless one of them means every
// row.
func widened(pending, floor string) string {
	if pending == "" || floor == everything {
		return floor
	}
	return pending
}

// rowsFrom counts the rows of the event table with that xid or a later one; -1:
// it has no such column.
func rowsFrom(ctx context.Context, sql *pgx.Conn, cfg *Config, floor string) (int64, error) {
	if cfg.Table == "" || floor == "" {
		return -1, nil
	}
	var n int64
	err := sql.QueryRow(ctx, "SELECT count(*) FROM "+cfg.quotedTable()+" WHERE xid >= $1::text::xid8", floor).Scan(&n)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "42703" || pgErr.Code == "42883") { // no column, or another type
		return -1, nil
	}
	if err != nil {
		return -1, queryError("count the rows of the gap", err)
	}
	return n, nil
}
