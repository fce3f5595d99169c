//go:build long && !embedded

package e2e_test

import (
	"context"
	"strings"
	"testing"
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
