package cdc

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// validSlot is what PostgreSQL accepts; START_REPLICATION takes the name
// unquoted.
var validSlot = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// server is what a session must know of the server before it asks for WAL.
type server struct {
	version       int // server_version_num
	senderTimeout time.Duration
}

// inspectServer checks what no slot could work without.
func inspectServer(ctx context.Context, conn *pgx.Conn) (server, error) {
	var (
		s        server
		timeout  int64
		walLevel string
		standby  bool
	)
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int,
		(SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'),
		current_setting('wal_level'), pg_is_in_recovery()`).Scan(&s.version, &timeout, &walLevel, &standby)
	if err != nil {
		return s, queryError("read the server's settings", err)
	}
	s.senderTimeout = time.Duration(timeout) * time.Millisecond
	switch {
	case s.version < 14_00_00:
		return s, &Error{Code: CodeVersion, Detail: fmt.Sprintf("the server is PostgreSQL %d; 14 is the oldest that works", s.version/10000),
			Fix: "upgrade the server"}
	case standby:
		return s, &Error{Code: CodeNotPrimary, Detail: "the server is a standby; the relay needs the primary",
			Fix: "name the primary in --database, or several hosts with target_session_attrs=read-write"}
	case walLevel != "logical" && s.version < 19_00_00:
		return s, &Error{Code: CodeWALLevel, Detail: fmt.Sprintf("wal_level is %q; logical decoding needs \"logical\"", walLevel),
			Fix: "as a superuser: ALTER SYSTEM SET wal_level = 'logical'; then restart the server"}
	}
	return s, nil
}

// slotState is one row of pg_replication_slots.
type slotState struct {
	plugin, database string
	sameDatabase     bool
	activePID        int // 0: nobody streams from it
	confirmed        LSN
	walStatus        string
	invalidation     string // 17 and later
	holder           string // application name and address of activePID, when visible
	synced           bool   // a copy of the primary's, or was before the promotion; 17 and later
	catalogAge       int64  // age(catalog_xmin)
}

// readSlot returns the slot's row, or nil when there is none.
func readSlot(ctx context.Context, conn *pgx.Conn, version int, slot string) (*slotState, error) {
	invalidation, synced := "''", "false"
	if version >= 17_00_00 {
		invalidation, synced = "coalesce(s.invalidation_reason, '')", "s.synced"
	} else if version >= 16_00_00 {
		invalidation = "CASE WHEN s.conflicting THEN 'conflict with recovery' ELSE '' END"
	}
	var st slotState
	err := conn.QueryRow(ctx, `SELECT coalesce(s.plugin, ''), coalesce(s.database, ''), coalesce(s.database = current_database(), false),
		coalesce(s.active_pid, 0), coalesce(s.confirmed_flush_lsn, '0/0'), coalesce(s.wal_status, ''), `+invalidation+`,
		coalesce(nullif(a.application_name, '') || coalesce(' at ' || host(a.client_addr), ''), ''), `+synced+`, coalesce(age(s.catalog_xmin), 0)
		FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
		WHERE s.slot_name = $1`, slot).Scan(&st.plugin, &st.database, &st.sameDatabase,
		&st.activePID, &st.confirmed, &st.walStatus, &st.invalidation, &st.holder, &st.synced, &st.catalogAge)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, queryError("read the slot "+strconv.Quote(slot), err)
	}
	return &st, nil
}

// readSlotStats reads the slot's figures. The server's position comes from the
// server, in the statement that reads the slot's: what the stream has told of
// it may be old. A slot that was lost, or is not complete yet, has no
// restart_lsn, and keeps nothing.
func readSlotStats(ctx context.Context, conn *pgx.Conn, cfg *Config) (SlotStats, error) {
	st := SlotStats{RetainedLimit: cfg.MaxRetainedWAL}
	err := conn.QueryRow(ctx, `SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint,
		coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn), 0)::bigint,
		coalesce(s.safe_wal_size, -1), coalesce(s.wal_status, ''), coalesce(age(s.catalog_xmin), 0),
		coalesce(t.spill_txns, 0), coalesce(t.spill_bytes, 0)
		FROM pg_replication_slots s LEFT JOIN pg_stat_replication_slots t ON t.slot_name = s.slot_name
		WHERE s.slot_name = $1`, cfg.Slot).Scan(&st.RetainedBytes, &st.UnconfirmedBytes, &st.SafeBytes, &st.WALStatus, &st.CatalogXminAge,
		&st.SpillTxns, &st.SpillBytes)
	if err != nil {
		return SlotStats{}, queryError("read the slot's figures", err)
	}
	st.At = time.Now()
	return st, nil
}

// checkSlot names what is wrong with the slot st, given the pipeline's witness;
// either may be missing (nil).
func checkSlot(cfg *Config, st *slotState, w *witness) error {
	switch {
	case st == nil && w != nil:
		return &Error{Code: CodeSlotMissing,
			Detail: fmt.Sprintf("slot %q is gone; everything up to %s was published, what was committed after it is not known to the server any more", cfg.Slot, w.acked.confirm),
			Fix:    newSlotFix(cfg)}
	case st == nil:
		return &Error{Code: CodeSlotMissing, Detail: fmt.Sprintf("slot %q does not exist", cfg.Slot),
			Fix: fmt.Sprintf("outboxd setup --pipeline %s, or run with --setup", cfg.Pipeline)}
	case st.plugin != "pgoutput":
		return &Error{Code: CodeSlotWrong, Detail: fmt.Sprintf("slot %q uses the plugin %q; the relay reads pgoutput", cfg.Slot, st.plugin),
			Fix: "choose another --slot, or drop that one if nobody needs it"}
	case !st.sameDatabase:
		return &Error{Code: CodeSlotWrong, Detail: fmt.Sprintf("slot %q belongs to the database %q", cfg.Slot, st.database),
			Fix: "name that database in --database, or choose another --slot"}
	case st.walStatus == "lost" || st.invalidation != "":
		why := st.invalidation
		if why == "" {
			why = "WAL that it needed was removed (max_slot_wal_keep_size)"
		}
		from := st.confirmed
		if w != nil {
			from = w.acked.confirm
		}
		return &Error{Code: CodeSlotLost,
			Detail: fmt.Sprintf("slot %q was invalidated: %s; events committed after %s can no longer be read from it", cfg.Slot, why, from),
			Fix:    newSlotFix(cfg)}
	case st.activePID != 0:
		return slotActive(cfg, st)
	}
	return nil
}

// overGap names the commands that go over a gap, in their order.
func overGap(cfg *Config) string {
	adopt := "outboxd adopt --pipeline " + cfg.Pipeline
	if cfg.Table == "" {
		return adopt + ". Messages in the gap were in no table: they cannot be published again"
	}
	return fmt.Sprintf("%s, then outboxd replay --pipeline %s --gap, with the flags of outboxd run, which publishes what is in the table; what was emitted without it cannot be published again", adopt, cfg.Pipeline)
}

func newSlotFix(cfg *Config) string { return "To go on with a new slot: " + overGap(cfg) }

func slotActive(cfg *Config, st *slotState) *Error {
	detail := fmt.Sprintf("slot %q is held by server process %d", cfg.Slot, st.activePID)
	if st.holder != "" {
		detail += " (" + st.holder + ")"
	}
	return &Error{Code: CodeSlotActive, Detail: detail}
}

// checkConfirmed compares the slot's confirmed position with the witness, who
// knows every position that this pipeline ever confirmed.
func checkConfirmed(cfg *Config, st *slotState, w *witness) error {
	if st.confirmed <= w.acked.confirm {
		return nil
	}
	return &Error{Code: CodeSlotForeign,
		Detail: fmt.Sprintf("slot %q stands at %s, and this pipeline confirmed only %s: it was recreated, or advanced by someone else; events committed between the two may be lost", cfg.Slot, st.confirmed, w.acked.confirm),
		Fix:    "find out who did it. To go on from the slot's position: " + overGap(cfg)}
}

// queryError names why a query on the SQL connection failed.
func queryError(what string, err error) *Error {
	e := connectError(err)
	if e.Code == CodePrivilege {
		e.Fix = "outboxd setup --relay-role <role> grants what the relay needs"
	}
	e.Detail = what
	return e
}
