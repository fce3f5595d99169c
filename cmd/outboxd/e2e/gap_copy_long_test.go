//go:build long && !embedded

package e2e_test

import (
	"strings"
	"testing"
)

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
