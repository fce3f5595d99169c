package setup

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RemakeSlot makes the pipeline's slot as Apply does, in place of one that is
// gone or of no use any more; what is left of that is dropped first. Nothing
// else is changed: the witness goes on knowing the old slot's past. A slot that
// a relay holds, or that is not a pipeline's of this database, is a *cdc.Error,
// and nothing is dropped then.
func RemakeSlot(ctx context.Context, o Options, out io.Writer) error {
	s, err := o.settings()
	if err != nil {
		return err
	}
	conn, err := connect(ctx, s.config)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	return named(remakeSlot(ctx, conn, s, &reporter{out: out, slot: s.Slot}))
}

// overGap names the commands that go over a gap, in their order.
func (s *settings) overGap() string {
	return fmt.Sprintf("outboxd adopt --pipeline %s, then outboxd replay --pipeline %[1]s --gap, with the flags of outboxd run, which publishes from table %[2]s what was written meanwhile", s.Pipeline, s.Table())
}

func remakeSlot(ctx context.Context, conn *pgx.Conn, s *settings, report *reporter) error {
	if err := exclusive(ctx, conn, report); err != nil {
		return err
	}
	server, err := readServer(ctx, conn)
	if err != nil {
		return err
	}
	old, err := readSlot(ctx, conn, server.major(), s.Slot)
	if err != nil {
		return err
	}
	if err := old.droppable(s.Slot); err != nil {
		return err
	}
	if old != nil {
		_, err := conn.Exec(ctx, fmt.Sprintf("SELECT pg_drop_replication_slot(%s)", literal(s.Slot)))
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "55006" {
			return slotHeld(s.Slot, "a relay that has just taken it", err)
		}
		if err != nil {
			return fmt.Errorf("drop slot %q: %w", s.Slot, err)
		}
		report.did("dropped", "replication slot "+s.Slot)
	} else if server.slots >= server.maxSlots {
		return server.slotLimit()
	}
	if err := createSlot(ctx, conn, s, server.major(), report); err != nil {
		return err
	}
	report.did("created", "replication slot "+s.Slot)
	return nil
}
