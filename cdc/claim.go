package cdc

import (
	"context"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// checkSame compares cluster and publication with a witness, which may be nil.
// In another cluster the publication is another one too; that says nothing.
func checkSame(cfg *Config, w *witness, system pglogrepl.IdentifySystemResult, pub publication) error {
	if w == nil {
		return nil
	}
	if err := checkSystem(cfg, w, system.SystemID, system.Timeline); err != nil {
		return err
	}
	return checkFingerprint(cfg, pub, w)
}

// adopt makes a witness for a slot that nobody has one for: it was made by
// hand, or setup was interrupted.
func (r *Reader) adopt(ctx context.Context, sql *pgx.Conn, st *slotState, system pglogrepl.IdentifySystemResult, pub publication) (*witness, error) {
	if r.last != nil {
		return nil, checkMemory(&r.cfg, r.last, nil)
	}
	w := &witness{systemID: system.SystemID, timeline: system.Timeline, epoch: 1, slot: r.cfg.Slot, floor: "0",
		acked: progress{confirm: st.confirmed}, checked: st.confirmed,
		configHash: r.cfg.ConfigHash, fingerprint: pub.fingerprint, holder: r.holder}
	if err := insertWitness(ctx, sql, &r.cfg, w); err != nil {
		return nil, err
	}
	r.cfg.Logger.Warn("adopted a slot that this pipeline did not know", "slot", r.cfg.Slot, "from", st.confirmed.String())
	r.queue.reset(w.acked)
	return w, nil
}

// claim checks the witness against server and memory, brings the queue in line
// with it and writes it back under our name.
func (r *Reader) claim(ctx context.Context, sql *pgx.Conn, w *witness, st *slotState, system pglogrepl.IdentifySystemResult, history string, pub publication) error {
	if err := checkSystem(&r.cfg, w, system.SystemID, system.Timeline); err != nil {
		return err
	}
	if r.last != nil && system.Timeline < r.last.timeline {
		return formerPrimary(&r.cfg, r.last, system.Timeline)
	}
	gap := w.gap
	if system.Timeline != w.timeline {
		if err := r.follow(w, st, system.Timeline, history); err != nil {
			return err
		}
	} else if err := r.resume(ctx, sql, w, st); err != nil {
		return err
	}
	if err := checkFingerprint(&r.cfg, pub, w); err != nil {
		return err
	}
	if w.gap != gap {
		if err := noteGap(ctx, sql, &r.cfg, w.gap); err != nil {
			return err
		}
	}
	if err := r.skip(ctx, sql, w); err != nil {
		return err
	}
	w.slot, w.configHash, w.fingerprint, w.holder = r.cfg.Slot, r.cfg.ConfigHash, pub.fingerprint, r.holder
	w.checked = w.acked.confirm
	return updateWitness(ctx, sql, &r.cfg, w)
}

// resume goes on where the witness, or this process, left off.
func (r *Reader) resume(ctx context.Context, sql *pgx.Conn, w *witness, st *slotState) error {
	if r.last != nil && w.timeline == r.last.timeline {
		if err := checkMemory(&r.cfg, r.last, w); err != nil {
			return r.witnessed(ctx, sql, err)
		}
	}
	if err := checkConfirmed(&r.cfg, st, w); err != nil {
		return err
	}
	if r.last != nil && w.holder == r.holder && w.version <= r.last.version+1 {
		r.queue.rewind()
		return nil
	}
	// The first session of this process, or another relay led since.
	w.countedUnder(r.cfg.ConfigHash)
	r.queue.reset(w.acked)
	return nil
}

// countedUnder forgets which part of a transaction was acked, unless that was
// under the configuration with that hash: under another one the ordinals may
// count other events, and the transaction is published whole.
func (w *witness) countedUnder(configHash string) {
	if w.configHash != configHash {
		w.acked.commit, w.acked.events = 0, 0
	}
}

// witnessed notes in the row that the database was restored, which is what err
// says, and returns err. Another process has no memory of what was published: it
// would go on, in the same epoch, with the same LSNs for other events.
func (r *Reader) witnessed(ctx context.Context, sql *pgx.Conn, err error) error {
	upTo := r.last.upTo().String()
	if failed := noteRestored(ctx, sql, &r.cfg, upTo); failed != nil {
		r.cfg.Logger.Warn("another process would not notice that the database was restored", "published", upTo, "error", failed.Error())
	}
	return err
}

// follow moves w and the queue to a newer timeline, in the next epoch.
//
// After an asynchronous failover the row may be older than what this process
// wrote: then memory knows better what was published. And a slot that was
// synchronised to the standby may be ahead of the row: the two do not travel
// together, and nobody but this pipeline confirmed it. One that is no copy, since
// somebody made it on the standby, proves nothing.
func (r *Reader) follow(w *witness, st *slotState, timeline int32, history string) error {
	at, err := switchPoint(&r.cfg, history, w.timeline)
	if err != nil {
		return err
	}
	if w.acked.confirm > at { // transaction ids beyond the switch are used again
		w.floor = everything
		if w.gap != "" {
			w.gap = everything
		}
	}
	w.countedUnder(r.cfg.ConfigHash)
	acked, remembered := w.acked, r.remembers(w)
	if remembered {
		acked = r.queue.progress()
	}
	if st.synced {
		acked.confirm = max(acked.confirm, min(st.confirmed, at))
	}
	w.acked = branch(acked, at)
	if err := checkConfirmed(&r.cfg, st, w); err != nil {
		return err
	}
	epoch := w.epoch + 1
	if r.last != nil { // a failover that this process followed may be lost with the row that said so
		epoch = max(epoch, r.last.epoch+1)
	}
	r.cfg.Logger.Warn("the server is on a new timeline", "timeline", timeline, "from", w.timeline, "at", at.String(),
		"published", acked.confirm.String(), "epoch", epoch)
	w.timeline, w.epoch = timeline, epoch
	if remembered {
		r.queue.branch(w.acked, at)
	} else {
		r.queue.reset(w.acked)
	}
	return nil
}

// remembers reports whether this process knows at least what the row w does:
// nobody else has written it since, at most an update of ours whose answer was
// lost.
func (r *Reader) remembers(w *witness) bool {
	if r.last == nil || r.last.timeline != w.timeline {
		return false
	}
	return w.version <= r.last.version || w.version == r.last.version+1 && w.holder == r.holder
}
