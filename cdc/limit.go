package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// heed tells the log when the slot begins to keep more WAL than it may, and
// when it does no longer. It returns why the session must end: the server drops
// no slot that somebody streams from.
func (r *Reader) heed(st SlotStats) error {
	beyond := st.Beyond()
	if beyond != r.beyond {
		r.beyond = beyond
		if beyond {
			r.cfg.Logger.Warn("the slot keeps more WAL than it may", "slot", r.cfg.Slot, "retained", st.RetainedBytes,
				"unconfirmed", st.UnconfirmedBytes, "limit", st.RetainedLimit)
		} else {
			r.cfg.Logger.Info("the slot keeps no more WAL than it may again", "slot", r.cfg.Slot, "retained", st.RetainedBytes)
		}
	}
	if !beyond || !r.cfg.DropSlot {
		return nil
	}
	return &Error{Code: CodeRetainedWAL,
		Detail: fmt.Sprintf("slot %q keeps %d bytes of WAL, and may keep %d: it is let go of, to be dropped", r.cfg.Slot, st.RetainedBytes, st.RetainedLimit)}
}

// ownSlotBeyond are the slots to drop: one at most, and none that is not ours.
// $1 is its name, $2 the last position of the pipeline, $3 the limit. The
// measure is the server's own. A slot that somebody streams from is left alone.
const ownSlotBeyond = ` FROM pg_replication_slots
	WHERE slot_name = $1 AND plugin = 'pgoutput' AND database = current_database() AND NOT active
		AND confirmed_flush_lsn <= $2::text::pg_lsn AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > $3::bigint`

// dropBeyond drops the slot, and returns an error that says so, if cfg asks for
// that and the slot keeps more WAL than it may. w is the pipeline's witness.
//
// The statement that drops measures again, and takes nothing for ours but a
// slot that the witness names and that nobody has moved beyond it. Any other is
// left to the checks that follow, which name what is wrong with it. A drop
// cannot be rolled back, so the audit comes first.
func dropBeyond(ctx context.Context, sql *pgx.Conn, cfg *Config, w *witness) error {
	if !cfg.DropSlot || cfg.MaxRetainedWAL <= 0 || w == nil || w.slot != cfg.Slot {
		return nil
	}
	var retained int64
	var end, dropped string
	acked := w.acked.confirm.String()
	err := pgx.BeginFunc(ctx, sql, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, pg_current_wal_lsn()::text"+ownSlotBeyond,
			cfg.Slot, acked, cfg.MaxRetainedWAL).Scan(&retained, &end)
		if err != nil {
			return err
		}
		reason := fmt.Sprintf("slot %s kept %d bytes of WAL and may keep %d", cfg.Slot, retained, cfg.MaxRetainedWAL)
		if err := audit(ctx, tx, cfg, deed{"drop-slot", acked, end, reason}); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT pg_drop_replication_slot(slot_name)::text"+ownSlotBeyond, cfg.Slot, acked, cfg.MaxRetainedWAL).Scan(&dropped)
	})
	var named *Error
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case errors.As(err, &named):
		return named
	case err != nil:
		return queryError(fmt.Sprintf("drop slot %q, which keeps more WAL than it may", cfg.Slot), err)
	}
	return &Error{Code: CodeSlotDropped,
		Detail: fmt.Sprintf("slot %q kept %d bytes of WAL, more than the %d that it may, and was dropped, as configured; everything up to %s was published, what was committed after it is not known to the server any more", cfg.Slot, retained, cfg.MaxRetainedWAL, acked),
		Fix:    newSlotFix(cfg)}
}
