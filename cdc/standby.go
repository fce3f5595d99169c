package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// checkAsynchronous refuses to stream where commits would wait for that: the
// server takes every walsender that synchronous_standby_names allows for a
// standby. All commits would wait for the broker, and be safe on no standby; that
// of the witness would wait for itself. The setting alone tells: what became of
// it (pg_stat_replication) the relay's role may not see.
func checkAsynchronous(ctx context.Context, conn *pgx.Conn, cfg *Config) error {
	var names string
	if err := conn.QueryRow(ctx, "SELECT current_setting('synchronous_standby_names')").Scan(&names); err != nil {
		return queryError("read synchronous_standby_names", err)
	}
	if !namesStandby(names, cfg.applicationName()) {
		return nil
	}
	return &Error{Code: CodeSyncStandby,
		Detail: fmt.Sprintf("synchronous_standby_names is %q, which takes the relay for a standby: commits would wait for the broker", names),
		Fix:    "as a superuser: ALTER SYSTEM SET synchronous_standby_names, with the application_name of each standby in place of *; then SELECT pg_reload_conf()"}
}

// namesStandby reports whether a value of synchronous_standby_names has a star,
// or the application's name, which has a space and so is in quotes there.
func namesStandby(names, application string) bool {
	if strings.Contains(strings.ToLower(names), strings.ToLower(`"`+application+`"`)) {
		return true
	}
	for _, name := range strings.FieldsFunc(names, func(c rune) bool { return strings.ContainsRune("(), \t\n", c) }) {
		if strings.Trim(name, `"`) == "*" {
			return true
		}
	}
	return false
}

// standbyPatience is how long the server may wait for a standby, and send
// nothing, before that is told.
const standbyPatience = 5 * time.Second

// standbyWatch notices that the server holds events back for a standby of
// synchronized_standby_slots that hangs. Of one that is away the server tells by
// itself (Stream.notice); for one whose connection stands it waits without a
// word, and keepalives go on.
type standbyWatch struct {
	received LSN       // the highest when it was last looked
	since    time.Time // it has been the highest since
	told     bool      // Stats say that the server waits
}

// watchStandby asks, when nothing new has come for a while, whether the
// walsender waits for a standby, and for which: the one that is furthest behind.
func (k *keeper) watchStandby(ctx context.Context) error {
	w := &k.standby
	received := LSN(k.s.received.Load())
	if received != w.received || w.since.IsZero() {
		w.received, w.since = received, time.Now()
		k.standbyAnswers()
		return nil
	}
	if k.s.version < 17_00_00 || time.Since(w.since) < standbyPatience {
		return nil
	}
	var slot string
	err := k.conn.QueryRow(ctx, `SELECT coalesce((SELECT slot_name::text FROM pg_replication_slots
			WHERE slot_name = ANY (regexp_split_to_array(current_setting('synchronized_standby_slots'), '[^a-z0-9_]+'))
			ORDER BY restart_lsn NULLS FIRST LIMIT 1), '')
		FROM pg_stat_get_activity($1) WHERE wait_event = 'WaitForStandbyConfirmation'`, k.s.pid).Scan(&slot)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		k.standbyAnswers()
		return nil
	case err != nil:
		return queryError("look whether the server waits for a standby", err)
	}
	w.told = true
	k.s.r.record(func(st *Stats) {
		st.HeldBack = "the standby with the slot \"" + slot + "\" of synchronized_standby_slots does not confirm what it gets"
		st.HeldBackAt = time.Now()
	})
	return nil
}

// standbyAnswers takes back what was told.
func (k *keeper) standbyAnswers() {
	if k.standby.told {
		k.standby.told = false
		k.s.r.record(func(st *Stats) { st.HeldBack = "" })
	}
}
