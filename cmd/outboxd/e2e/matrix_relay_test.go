//go:build !embedded

package e2e_test

import "testing"

// TestMatrixRelay breaks the relay.
func TestMatrixRelay(t *testing.T) {
	runMatrix(t, "Relay", []fault{
		{id: "F1", name: "SIGKILL under load", how: "`kill -9`, then another process",
			expect: "the next process goes on where the slot stands; what was in flight or acked in the last second may come twice", duplicates: 16_384 + 10_000, stragglers: 16_384,
			inject: func(f *faultRun) {
				f.relay.kill()
				f.start()
				f.healed()
			}},
	})
}
