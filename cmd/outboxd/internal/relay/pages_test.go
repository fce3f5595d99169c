package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPagesAgainstOracle takes and resolves items in random order, and compares
// with a plain set of what is in flight.
func TestPagesAgainstOracle(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := newPages(256, 1<<20)
		flight := map[uint64]int{} // size by token
		var tokens []uint64
		bytes := 0
		for range 5000 {
			if len(tokens) > 0 && (rng.IntN(2) == 0 || len(tokens) > 60) {
				i := rng.IntN(len(tokens))
				token := tokens[i]
				tokens[i] = tokens[len(tokens)-1]
				tokens = tokens[:len(tokens)-1]
				it, due := p.outcome(token)
				if !due || it.size != flight[token] {
					t.Fatalf("seed %d: outcome of token %d: due %v", seed, token, due)
				}
				bytes -= flight[token]
				delete(flight, token)
				p.release(token)
				if _, due := p.outcome(token); due {
					t.Fatalf("seed %d: a second outcome is due for token %d", seed, token)
				}
				continue
			}
			size := rng.IntN(4000)
			// At most 61 items hold open at most 61 pages of 4; ask only when
			// there must be room, because nothing would free it.
			if len(tokens) >= 3 {
				continue
			}
			token, _, err := p.take(t.Context(), size)
			if err != nil {
				t.Fatal(err)
			}
			if _, taken := flight[token]; taken {
				t.Fatalf("seed %d: token %d is given out twice", seed, token)
			}
			flight[token] = size
			tokens = append(tokens, token)
			bytes += size
			if p.events.Load() != int64(len(flight)) || p.bytes.Load() != int64(bytes) {
				t.Fatalf("seed %d: %d events, %d bytes in flight, want %d, %d", seed, p.events.Load(), p.bytes.Load(), len(flight), bytes)
			}
			if p.oldest().IsZero() {
				t.Fatalf("seed %d: nothing is oldest with %d in flight", seed, len(flight))
			}
		}
		for _, token := range tokens {
			p.outcome(token)
			p.release(token)
		}
		if p.events.Load() != 0 || p.bytes.Load() != 0 || !p.oldest().IsZero() {
			t.Errorf("seed %d: something is in flight at the end", seed)
		}
	}
}

// TestPagesBoundBytes: also when one page would have room for more items.
func TestPagesBoundBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPages(1<<12, 100_000)
		var tokens []uint64
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			token, _, err := p.take(ctx, 10_000)
			cancel()
			if err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				break
			}
			tokens = append(tokens, token)
		}
		if len(tokens) != 10 {
			t.Errorf("%d items of 10,000 bytes fit into 100,000", len(tokens))
		}
		// The pages are given back as a whole.
		for _, token := range tokens {
			p.outcome(token)
			p.release(token)
		}
		if _, _, err := p.take(t.Context(), 10_000); err != nil {
			t.Error(err)
		}
	})
}

// TestPagesOfLargeItems: large items do not wait for 63 others to be given back.
func TestPagesOfLargeItems(t *testing.T) {
	p := newPages(256, 1<<20)
	first, _, err1 := p.take(t.Context(), pageBytes)
	second, _, err2 := p.take(t.Context(), 1)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if first/pageItems == second/pageItems {
		t.Error("a page goes on after an item as large as a page may be")
	}
}

// TestPagesLargeAlone: what is larger than the bound waits until nothing else
// is in flight, and then passes.
func TestPagesLargeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPages(1<<12, 1000)
		first, _, err := p.take(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		var large time.Time
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, _, err := p.take(t.Context(), 5000); err != nil {
				t.Error(err)
			}
			large = time.Now()
		})
		time.Sleep(time.Minute)
		freed := time.Now()
		p.outcome(first)
		p.release(first)
		wait.Wait()
		if !large.Equal(freed) {
			t.Errorf("the large item passed %s after the small one was acked", large.Sub(freed))
		}
	})
}

// TestPagesIdleReuse: a page all of whose items are acked begins again, though
// it is neither full nor old, so that oldest and the bytes held follow what is
// in flight.
func TestPagesIdleReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPages(128, 10_000)
		for range 1000 {
			token, _, err := p.take(t.Context(), 900)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.oldest(); time.Since(got) != 0 {
				t.Fatalf("oldest is %s old", time.Since(got))
			}
			p.outcome(token)
			p.release(token)
			time.Sleep(pageAge / 2)
		}
	})
}

// TestPagesOldest: a stream of events that never stops does not hide how old
// the oldest is, nor makes it older than it is by more than pageAge.
func TestPagesOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = 700 * time.Millisecond
		p := newPages(1024, 1<<20)
		for range 200 {
			token, _, err := p.take(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(latency, func() {
				p.outcome(token)
				p.release(token)
			})
			if age := time.Since(p.oldest()); age > latency+pageAge+100*time.Millisecond {
				t.Fatalf("oldest is %s old, with acks after %s", age, latency)
			}
			time.Sleep(100 * time.Millisecond)
		}
		stuck := time.Now()
		if _, _, err := p.take(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := p.oldest(); got.After(stuck) || stuck.Sub(got) > pageAge {
			t.Errorf("oldest is %s, want %s", got, stuck)
		}
	})
}

// TestPagesConcurrent is for the race detector: outcomes on other goroutines.
func TestPagesConcurrent(t *testing.T) {
	p := newPages(256, 64<<10)
	results := make(chan uint64, 256)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for token := range results {
				if _, due := p.outcome(token); !due {
					t.Errorf("no outcome is due for token %d", token)
				}
				p.release(token)
			}
		})
	}
	for i := range 50_000 {
		token, it, err := p.take(t.Context(), i%500)
		if err != nil {
			t.Fatal(err)
		}
		it.delivery.Token = token
		results <- token
		if i%1000 == 0 {
			p.oldest()
		}
	}
	close(results)
	workers.Wait()
	if p.events.Load() != 0 || p.bytes.Load() != 0 {
		t.Errorf("%d events, %d bytes in flight at the end", p.events.Load(), p.bytes.Load())
	}
}
