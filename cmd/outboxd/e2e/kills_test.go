//go:build !embedded

package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// mostInFlight is what the relay has on its way at most, in events, and
// mostRepeated what a kill may repeat: that, and what was acked since the last
// witness, which is a second old at most.
const (
	mostInFlight = 16_384
	mostRepeated = mostInFlight + 10_000
)

// TestKillLoop kills the relay OUTBOXD_KILLS times, up to a second after it has
// begun to publish again, and prints how many duplicates a kill made and how
// long it took until the next relay published.
func TestKillLoop(t *testing.T) {
	t.Run("Kafka", func(t *testing.T) { kills(t, newKafkaEnd(t, devtest.Kafka(t))) })
	t.Run("RabbitMQ", func(t *testing.T) { kills(t, newRabbitEnd(t, devtest.RabbitMQ(t))) })
}

func kills(t *testing.T, end broker) {
	n, seed := number(t, "OUTBOXD_KILLS", 20), uint64(number(t, "OUTBOXD_SEED", 1))
	t.Logf("%d kills, seed %d", n, seed)
	rng := rand.New(rand.NewPCG(seed, seed))
	s := newSite(t, devtest.Database(t))
	load := mixed(s, end)
	load.Writers, load.Seed = 4, seed
	var (
		h          workload.History
		recoveries []time.Duration
		repeated   []int
	)
	end.watch(s, func() {
		underLoad(t, load, &h, func() {
			duplicates := repetition{seen: map[string]bool{}}
			for range n {
				started := time.Now()
				r := s.run(end.flags()...)
				for r.metric("outboxd_events_published_total") == 0 && time.Since(started) < time.Minute {
					<-time.After(5 * time.Millisecond)
				}
				recoveries = append(recoveries, time.Since(started))
				<-time.After(time.Duration(rng.IntN(1000)) * time.Millisecond)
				r.kill()
				repeated = append(repeated, duplicates.since(t, end))
			}
		})
	})
	s.run(end.flags()...)
	judgeKilled(t, &h, end, n*mostRepeated, n*mostInFlight)
	t.Logf("duplicates of a kill: %s", distribution(repeated))
	t.Logf("from start to publishing: %s", distribution(recoveries))
}

// repetition counts what has come more than once.
type repetition struct {
	seen map[string]bool
	read int // records looked at
	n    int
}

// since returns how many duplicates have come since it was last asked. It reads
// a little longer than what a killed relay left on its way takes to arrive;
// what it misses counts for the next kill.
func (r *repetition) since(t *testing.T, end broker) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	all := end.read(ctx, func(int) bool { return false })
	before := r.n
	for _, d := range all[r.read:] {
		if r.seen[d.ID] {
			r.n++
		}
		r.seen[d.ID] = true
	}
	r.read = len(all)
	return r.n - before
}

// distribution shows the least, the middle, the largest of a sample.
func distribution[T int | time.Duration](sample []T) string {
	sorted := slices.Sorted(slices.Values(sample))
	at := func(percent int) T { return sorted[(len(sorted)-1)*percent/100] }
	return fmt.Sprintf("min %v, p50 %v, p90 %v, p99 %v, max %v (of %d)", at(0), at(50), at(90), at(99), at(100), len(sorted))
}

// number reads a variable.
func number(t *testing.T, name string, standard int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number of 1 or more", name, text)
	}
	return n
}
