package cdc

import (
	"context"
	"fmt"
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
	// before. Slot is where the slot stands and the stream would go on.
	Acked, Slot LSN
	// Floor is the replay floor, an xid8: every row of the table that may not
	// have been published has this xid or a later one.
	Floor string
	// Epoch is the one that the pipeline has, or gets when the gap is
	// accepted.
	Epoch uint16

	witness *witness // as it is to become
}

// FindGap compares witness, slot, system and publication. The publication must
// cover the table and the slot must exist and be free: what can still be
// mended must be mended first. cfg needs Database, Pipeline, Slot, Publication
// and Table.
func FindGap(ctx context.Context, cfg Config) (Gap, error) {
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
		if err != nil {
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
		system, err := identify(ctx, &cfg, srv)
		if err != nil {
			return err
		}
		g = compare(&cfg, w, st, pub, system)
		return nil
	})
	return g, err
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
// the slot stands, in a new epoch. It refuses when a relay wrote the witness
// since the gap was found.
func (g Gap) Accept(ctx context.Context, cfg Config) error {
	if len(g.Findings) == 0 {
		return nil
	}
	w := *g.witness
	return withSQL(ctx, &cfg, func(sql *pgx.Conn) error {
		return updateWitness(ctx, sql, &cfg, &w)
	})
}

// compare lists what differs and says what the witness becomes.
func compare(cfg *Config, w *witness, st *slotState, pub publication, system pglogrepl.IdentifySystemResult) Gap {
	g := Gap{Acked: w.acked.confirm, Slot: st.confirmed, Floor: w.floor, Epoch: w.epoch}
	for _, err := range []error{
		checkSystem(cfg, w, system.SystemID, system.Timeline),
		checkConfirmed(cfg, st, w),
	} {
		if e, ok := err.(*Error); ok {
			g.Findings = append(g.Findings, e.Detail)
		}
	}
	// After a restore the same LSN may mean less than it did, also where the
	// comparison finds nothing.
	if len(g.Findings) == 0 && w.acked.confirm > system.XLogPos {
		g.Findings = append(g.Findings, fmt.Sprintf("the pipeline published up to %s, and the server's WAL ends at %s: it was restored to an earlier state", w.acked.confirm, system.XLogPos))
	}
	moved := len(g.Findings) > 0
	if e, ok := checkFingerprint(cfg, pub, w).(*Error); ok {
		g.Findings = append(g.Findings, e.Detail)
	}
	if len(g.Findings) == 0 {
		return g
	}
	next := *w
	next.fingerprint, next.holder = pub.fingerprint, "adopt"
	if moved {
		next.systemID, next.timeline, next.epoch = system.SystemID, system.Timeline, w.epoch+1
		next.slot, next.floor, next.acked = cfg.Slot, "0", progress{confirm: st.confirmed}
	} else {
		g.Slot = w.acked.confirm // the positions are what they were
	}
	next.checked = next.acked.confirm
	g.Epoch, g.witness = next.epoch, &next
	return g
}

// identify asks for system identifier and timeline, which takes a replication
// connection.
func identify(ctx context.Context, cfg *Config, srv server) (pglogrepl.IdentifySystemResult, error) {
	conn, err := connectReplication(ctx, cfg, srv.version, senderTimeout(srv.senderTimeout))
	if err != nil {
		return pglogrepl.IdentifySystemResult{}, err
	}
	defer closeReplication(conn)
	system, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return system, queryError("identify the system", err)
	}
	return system, nil
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
