package checker

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// TestReached compares with a look at every sample.
func TestReached(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		samples := make([]Sample, rng.IntN(6))
		for i := range samples {
			samples[i] = Sample{Confirmed: fmt.Sprint(rng.IntN(5)), Ends: map[string]int64{}}
			for _, log := range []string{"a", "b"} {
				if rng.IntN(4) > 0 { // else the log is not there, and so empty
					samples[i].Ends[log] = rng.Int64N(5)
				}
			}
		}
		r := newReached(samples)
		for range 10 {
			commit, log := fmt.Sprint(rng.IntN(5)), string(rune('a'+rng.IntN(3)))
			want := int64(math.MaxInt64)
			for _, s := range samples {
				if s.Confirmed > commit {
					want = min(want, s.Ends[log])
				}
			}
			if got := r.leastBeyond(commit, log); got != want {
				t.Fatalf("beyond %s log %s reached %d at least, want %d: %v", commit, log, got, want, samples)
			}
		}
	}
}
