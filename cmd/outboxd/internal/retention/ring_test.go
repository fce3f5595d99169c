package retention_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
)

func TestNewRing(t *testing.T) {
	for want, width := range map[time.Duration]time.Duration{
		72 * time.Hour:           14*time.Hour + 24*time.Minute,
		time.Minute:              12 * time.Second,
		61 * time.Second:         13 * time.Second,
		500 * time.Millisecond:   time.Second,
		5*time.Second + 1:        2 * time.Second,
		366 * 24 * time.Hour:     366 * 24 * time.Hour / 5,
		7*time.Hour + 1:          5041 * time.Second,
		0:                        time.Second,
		10*time.Second - 1:       2 * time.Second,
		10 * time.Second:         2 * time.Second,
		10*time.Second + 1:       3 * time.Second,
		1000000007 * time.Second: 200000002 * time.Second,
		9223372035 * time.Second: 1844674407 * time.Second, // 292 years: the next second does not fit
	} {
		ring := retention.NewRing("public.outbox", want)
		if ring.Width != width || ring.Buckets != 8 || ring.Holds() < want {
			t.Errorf("NewRing(%s) = %+v holding %s, want a width of %s", want, ring, ring.Holds(), width)
		}
	}
}

// A ring that is rotated now and then, against a list of rows: none goes before
// its time, the bucket being written and the next are never touched, and where
// rotation keeps up none stays too long.
func TestRingKeepsAndEnds(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		keep := time.Duration(1+rnd.IntN(500)) * time.Second
		ring := retention.NewRing("t", keep)
		width := int64(ring.Width / time.Second)
		keepsUp := seed%2 == 0
		buckets := make([][]int64, ring.Buckets) // the times of the rows
		now := int64(rnd.IntN(1 << 30))
		for range 3000 {
			pause := int64(rnd.IntN(int(width)) + 1)
			if !keepsUp {
				pause *= int64(rnd.IntN(20))
			}
			now += pause
			current := int(now / width % int64(ring.Buckets))
			buckets[current] = append(buckets[current], now)
			if keepsUp || rnd.IntN(3) == 0 {
				oldest := ring.Oldest(now)
				if oldest == current || oldest == (current+1)%ring.Buckets {
					t.Fatalf("seed %d: bucket %d is emptied while %d is written", seed, oldest, current)
				}
				for _, at := range buckets[oldest] {
					if age := time.Duration(now-at) * time.Second; age < keep {
						t.Fatalf("seed %d: a row is dropped after %s, retention is %s", seed, age, keep)
					}
				}
				buckets[oldest] = nil
			}
			if keepsUp {
				checkAges(t, ring, buckets, now)
			}
		}
	}
}

func checkAges(t *testing.T, ring retention.Ring, buckets [][]int64, now int64) {
	t.Helper()
	limit := time.Duration(ring.Buckets-1) * ring.Width
	for _, rows := range buckets {
		if len(rows) > 0 && time.Duration(now-rows[0])*time.Second > limit {
			t.Fatalf("a row is still there after %s, the limit is %s", time.Duration(now-rows[0])*time.Second, limit)
		}
	}
}
