package e2e_test

import (
	"fmt"
	"slices"
	"testing"
)

// usage is what relays used, by how many faults each had lived through: young
// ones a few, old ones so many that a leak of every session would show.
type usage struct {
	young, old []load
}

const (
	youngFaults = 4
	oldFaults   = 12
	// enoughOld is how many old ones say something.
	enoughOld = 10
)

// load is what a relay uses.
type load struct{ heap, goroutines, descriptors float64 }

// add takes what a relay uses that has lived through so many faults.
func (u *usage) add(lived int, l load) {
	switch {
	case lived <= youngFaults:
		u.young = append(u.young, l)
	case lived >= oldFaults:
		u.old = append(u.old, l)
	}
}

// grows says whether old relays use more than young ones, by more than chance.
// It goes by medians: a heap is as large as the moment of the last collection
// left it.
func (u *usage) grows() bool {
	if len(u.young) == 0 || len(u.old) < enoughOld {
		return false
	}
	young, old := median(u.young), median(u.old)
	return old.heap > young.heap*1.5+8<<20 || old.goroutines > young.goroutines+10 || old.descriptors > young.descriptors+10
}

func (u *usage) String() string {
	young, old := median(u.young), median(u.old)
	return fmt.Sprintf("used by %d young and %d old relays: heap %.1f and %.1f MiB, goroutines %.0f and %.0f, descriptors %.0f and %.0f",
		len(u.young), len(u.old), young.heap/(1<<20), old.heap/(1<<20), young.goroutines, old.goroutines, young.descriptors, old.descriptors)
}

// median is that of each figure; zero without any.
func median(loads []load) (m load) {
	if len(loads) == 0 {
		return m
	}
	for _, figure := range []func(*load) *float64{
		func(l *load) *float64 { return &l.heap },
		func(l *load) *float64 { return &l.goroutines },
		func(l *load) *float64 { return &l.descriptors },
	} {
		var all []float64
		for i := range loads {
			all = append(all, *figure(&loads[i]))
		}
		slices.Sort(all)
		*figure(&m) = all[len(all)/2]
	}
	return m
}

func TestUsage(t *testing.T) {
	const mib = 1 << 20
	for name, tt := range map[string]struct {
		leak  load // of each fault
		grows bool
	}{
		"nothing":     {load{}, false},
		"memory":      {load{heap: 3 * mib}, true},
		"goroutines":  {load{goroutines: 1}, true},
		"descriptors": {load{descriptors: 1}, true},
	} {
		var u usage
		for range 20 {
			for lived := 1; lived <= 20; lived++ {
				n := float64(lived)
				noise := float64(lived%3) * 5 * mib
				u.add(lived, load{30*mib + noise + n*tt.leak.heap, 46 + n*tt.leak.goroutines, 28 + n*tt.leak.descriptors})
			}
		}
		if u.grows() != tt.grows {
			t.Errorf("%s: grows is %v: %s", name, !tt.grows, &u)
		}
	}
}
