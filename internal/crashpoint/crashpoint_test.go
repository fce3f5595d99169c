package crashpoint_test

import (
	"testing"

	"github.com/outboxd/outboxd/internal/crashpoint"
)

// TestOverlay fails when a place is not there any more, or is there twice. That
// it compiles and is reached is seen by TestCrashPoints of the end-to-end tests.
func TestOverlay(t *testing.T) {
	if _, err := crashpoint.Overlay("../..", t.TempDir()); err != nil {
		t.Fatal(err)
	}
}
