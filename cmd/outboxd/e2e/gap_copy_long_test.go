//go:build long && !embedded

package e2e_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/outbox"
)

// TestLongRestoreThatNobodySaw: no relay lives through the restore, and the
// backup has the slot, so that nothing in the database shows it. What a broker
// has does.
func TestLongRestoreThatNobodySaw(t *testing.T) {
	t.Parallel()
	f := onServer(t, "16", 20, nil)
	backup := f.backup()
	f.relay.stopped()
	now, cancel := context.WithCancel(t.Context())
	cancel()
	last := ""
	for _, d := range f.end.read(now, func(int) bool { return true }) {
		last = max(last, d.Position)
	}
	f.restore(backup)
	f.site.command("adopt").expect(t, 0, "no gap")
	f.site.command("adopt", "--published", "0001.0000000000000001.00000000").expect(t, 78, "knows that 0001.0000000000000001.00000000 was published")
	f.site.command("adopt", "--yes", "--published", last).expect(t, 0, "has published up to "+last, "missing    nothing", "epoch 2")
	f.start().ready()
	f.startLoad()
	f.more()
	f.judgedBy(true, mostRepeated)
}

// TestLongUpgrade: after pg_upgrade the cluster is another one. Its slot comes along,
// once everything is consumed, and with it what was emitted without the table
// since then.
func TestLongUpgrade(t *testing.T) {
	t.Parallel()
	f := beforeUpgrade(t, "SELECT pg_replication_slot_advance('SLOT', pg_current_wal_lsn())")
	f.upgrade()
	f.emit()
	f.mendUpgrade("system_changed", "goes on    from")
}

// TestLongUpgradeWithoutSlot: the slot does not come along.
func TestLongUpgradeWithoutSlot(t *testing.T) {
	t.Parallel()
	f := beforeUpgrade(t, "SELECT pg_drop_replication_slot('SLOT')")
	f.upgrade()
	f.mendUpgrade("slot_missing", "goes on    with a new slot")
}

// TestLongUpgradeIsRefused: the relay's last note of itself stands behind what it
// confirmed, so that pg_upgrade never finds the slot empty by itself.
func TestLongUpgradeIsRefused(t *testing.T) {
	t.Parallel()
	f := beforeUpgrade(t, "SELECT 'SLOT'")
	if _, err := f.server.Upgrade(t.Context(), "18"); err == nil || !strings.Contains(err.Error(), "consume the pending WAL") {
		t.Errorf("pg_upgrade: %v", err)
	}
}

// beforeUpgrade ends with everything published, the relay stopped in good order
// and the SQL done about its slot.
func beforeUpgrade(t *testing.T, sql string) *faultRun {
	t.Helper()
	f := onServer(t, "17", 0, nil)
	f.quiet()
	f.relay.stopped()
	f.site.exec(strings.ReplaceAll(sql, "SLOT", f.site.slot()))
	f.stopServer()
	return f
}

// upgrade makes the run's server one of 18.
func (f *faultRun) upgrade() {
	f.t.Helper()
	upgraded, err := f.server.Upgrade(f.t.Context(), "18")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = upgraded.Close() })
	f.moves(upgraded)
}

// mendUpgrade has the services write first. The relay stops with the code, adopt
// shows how it goes on, and nothing is lost.
func (f *faultRun) mendUpgrade(code, goesOn string) {
	f.t.Helper()
	f.startLoad()
	f.more()
	f.start()
	f.stops(78, code, "outboxd adopt --pipeline "+f.site.pipeline, "outboxd replay --pipeline "+f.site.pipeline)
	f.site.command("adopt").expect(f.t, 1, "another cluster", goesOn)
	f.mended()
	f.judgedBy(false, f.history.Committed())
}

// emit commits an event without the table.
func (f *faultRun) emit() {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.site.app)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	event, written := f.event()
	if err := pgx.BeginFunc(f.t.Context(), conn, func(tx pgx.Tx) error {
		_, err := outbox.Emit(f.t.Context(), tx, event)
		return err
	}); err != nil {
		f.t.Fatal(err)
	}
	f.history.Add([]checker.Written{written})
}
