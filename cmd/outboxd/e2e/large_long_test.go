//go:build long && !embedded

package e2e_test

import "testing"

// TestLongLargeEvent: an event of 100 MB goes through each broker that is
// configured to take it, and is parked when not.
func TestLongLargeEvent(t *testing.T) { largeEvents(t, 100_000_000) }
