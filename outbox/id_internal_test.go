package outbox

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestTicksFollowTheClockAndNeverGoBack(t *testing.T) {
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	first := noon.UnixMilli() * ticksPerMilli
	var last atomic.Int64
	for _, step := range []struct {
		now  time.Time
		want int64
		why  string
	}{
		{noon, first, "the clock"},
		{noon, first + 1, "it stands still"},
		{noon.Add(-time.Hour), first + 2, "it was set back"},
		{noon.Add(244 * time.Nanosecond), first + 3, "it has not caught up"},
		{noon.Add(500 * time.Microsecond), first + ticksPerMilli/2, "half a millisecond"},
		{noon.Add(time.Millisecond - 1), first + ticksPerMilli - 1, "the last fraction"},
		{noon.Add(time.Millisecond), first + ticksPerMilli, "the next millisecond"},
	} {
		if got := nextTick(&last, step.now); got != step.want {
			t.Errorf("%s: tick %d, want %d", step.why, got-first, step.want-first)
		}
	}
}

func TestNoTickIsUsedTwice(t *testing.T) {
	const goroutines, each = 4, 2_000_000
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var last atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range goroutines {
		wg.Go(func() {
			<-start
			for range each {
				nextTick(&last, noon)
			}
		})
	}
	close(start)
	wg.Wait()
	// The clock stands still, so each call must have moved the tick by one.
	if got, want := last.Load()-noon.UnixMilli()*ticksPerMilli, int64(goroutines*each-1); got != want {
		t.Errorf("%d calls moved the tick to %d, want %d", goroutines*each, got, want)
	}
}

func TestIDCarriesItsTick(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, int(750*time.Microsecond), time.UTC)
	var last atomic.Int64
	id := makeID(nextTick(&last, at))
	if want := at.Truncate(time.Millisecond); !id.Time().Equal(want) {
		t.Errorf("Time() = %v, want %v", id.Time(), want)
	}
	// RFC 9562 method 3: 0.75 ms are 3072/4096, behind the version's digit.
	if got := id.String()[14:18]; got != "7c00" {
		t.Errorf("version and fraction are %s, want 7c00", got)
	}
}
