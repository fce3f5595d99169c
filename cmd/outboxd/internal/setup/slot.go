package setup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// slot is an existing replication slot.
type slot struct {
	plugin, database string
	here             bool // in this database
	temporary        bool
	failover         bool // 17 and later
	status           string
	confirmed        string // pg_lsn; empty while it is being made
	activePID        int32
	holder           string
}

func readSlot(ctx context.Context, conn *pgx.Conn, major int, name string) (*slot, error) {
	failover := "false"
	if major >= 17 {
		failover = "s.failover"
	}
	var sl slot
	err := conn.QueryRow(ctx, `
		SELECT coalesce(s.plugin, 'none: a physical slot'), coalesce(s.database, 'none'), coalesce(s.database = current_database(), false),
		       s.temporary, `+failover+`, coalesce(s.wal_status, ''), coalesce(s.confirmed_flush_lsn::text, ''), coalesce(s.active_pid, 0),
		       coalesce(concat_ws(' ', nullif(a.application_name, ''), 'of role ' || a.usename, 'at ' || host(a.client_addr)), '')
		FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
		WHERE s.slot_name = $1`, name).Scan(
		&sl.plugin, &sl.database, &sl.here, &sl.temporary, &sl.failover, &sl.status, &sl.confirmed, &sl.activePID, &sl.holder)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up slot %q: %w", name, err)
	}
	return &sl, nil
}

// ours says whether the slot can be a pipeline's of this database at all.
func (sl *slot) ours(name string) *cdc.Error {
	if sl.plugin == "pgoutput" && sl.here && !sl.temporary {
		return nil
	}
	return &cdc.Error{Code: cdc.CodeSlotWrong,
		Detail: fmt.Sprintf("slot %q is someone else's: plugin %s, database %s, temporary %t; wanted a permanent pgoutput slot of this database",
			name, sl.plugin, sl.database, sl.temporary),
		Fix: "choose another name with --pipeline or --slot"}
}

func (sl *slot) check(s *settings, st *state) (p Problems) {
	if e := sl.ours(s.Slot); e != nil {
		return Problems{e}
	}
	remake := fmt.Sprintf("if nothing has been relayed from it: SELECT pg_drop_replication_slot(%s); then outboxd setup --pipeline %s", literal(s.Slot), s.Pipeline)
	if st.witness != nil {
		remake = s.overGap()
	}
	switch {
	case sl.status == "lost":
		p.add(cdc.CodeSlotLost, remake, "the server has removed WAL that slot %q needs", s.Slot)
	case sl.confirmed == "":
		p.add(cdc.CodeSlotActive, "try again when it is done", "slot %q is being made by process %d (%s)", s.Slot, sl.activePID, sl.holder)
	case st.publication == nil:
		// What was written between the slot's start and the publication's
		// creation cannot be decoded: an error for ever, or from 18 on a gap.
		if st.witness != nil {
			remake = strings.TrimSpace(publicationSQL(s, st)) + " then " + remake
		}
		p.add(cdc.CodePublication, remake, "slot %q exists and publication %q does not: a slot cannot read what was written before its publication was made",
			s.Slot, s.Publication)
	}
	return p
}

// slotSQL makes the slot. It must be a transaction of its own.
func slotSQL(name string, major int) string {
	if major >= 17 { // the standbys keep a copy: it survives a failover
		return fmt.Sprintf("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, false, true);\n", literal(name))
	}
	return fmt.Sprintf("SELECT pg_create_logical_replication_slot(%s, 'pgoutput');\n", literal(name))
}

// witnessSQL makes the pipeline's witness: everything before the slot's
// position counts as acked. The timeline is that of the WAL being written; the
// one in the control file lags behind a promotion.
func witnessSQL(names Identity) string {
	return fmt.Sprintf(`INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, outbox_table, acked_lsn)
SELECT %s, c.system_identifier::text, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer, 1,
       s.slot_name, %s, %s, s.confirmed_flush_lsn
FROM pg_control_system() AS c, pg_replication_slots AS s
WHERE s.slot_name = %s;
`, literal(names.Pipeline), literal(names.Publication), literal(names.Table()), literal(names.Slot))
}
