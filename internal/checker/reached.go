package checker

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// reached tells in little time how far logs reached in samples: a long run has
// millions of deliveries, and thousands of samples to hold each against.
type reached struct {
	samples []Sample           // by what they had confirmed
	least   map[string][]int64 // of a log: its lowest end in samples[i:]
}

func newReached(samples []Sample) *reached {
	r := &reached{samples: slices.Clone(samples), least: map[string][]int64{}}
	slices.SortFunc(r.samples, func(a, b Sample) int { return cmp.Compare(a.Confirmed, b.Confirmed) })
	return r
}

// leastBeyond returns the lowest end of a log among the samples that had
// confirmed more than the commit; without any, the largest number.
func (r *reached) leastBeyond(commit, log string) int64 {
	i := sort.Search(len(r.samples), func(i int) bool { return r.samples[i].Confirmed > commit })
	if i == len(r.samples) {
		return math.MaxInt64
	}
	least, known := r.least[log]
	if !known {
		least = make([]int64, len(r.samples))
		lowest := int64(math.MaxInt64)
		for i, s := range slices.Backward(r.samples) {
			lowest = min(lowest, s.Ends[log])
			least[i] = lowest
		}
		r.least[log] = least
	}
	return least[i]
}
