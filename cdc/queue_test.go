package cdc

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// oracle is the queue as one would write it without a thought of cost: the
// whole history, looked through from the start at each question.
type oracle struct {
	start progress
	items []oracleItem
}

type oracleItem struct {
	place
	mark  LSN
	acked bool
}

func (o *oracle) progress() progress {
	g := o.start
	for _, it := range o.items {
		switch {
		case it.commit == 0:
			g.confirm = max(g.confirm, it.mark)
		case it.acked:
			g.commit, g.events = it.commit, it.ordinal+1
		default:
			return g
		}
	}
	return g
}

// walItem is one entry of a made-up log: an event, a commit or a keepalive.
type walItem struct {
	place
	mark LSN
}

func randomWAL(rng *rand.Rand, n int) []walItem {
	var items []walItem
	lsn := LSN(1000)
	for range n {
		lsn += LSN(1 + rng.IntN(50))
		if rng.IntN(3) == 0 {
			items = append(items, walItem{mark: lsn})
			continue
		}
		commit := lsn
		for i := range rng.IntN(6) {
			items = append(items, walItem{place: place{commit, uint32(i)}})
		}
		lsn += LSN(1 + rng.IntN(20))
		items = append(items, walItem{mark: lsn})
	}
	return items
}

// serverSends returns what a server sends that was last told to confirm at
// confirmed: whole transactions whose commit record does not begin before it.
func serverSends(items []walItem, confirmed LSN) []walItem {
	for i, it := range items {
		if it.commit != 0 && it.commit >= confirmed || it.commit == 0 && it.mark > confirmed {
			// Not in the middle of a transaction.
			if it.commit != 0 || i == 0 || items[i-1].commit == 0 || items[i-1].commit >= confirmed {
				return items[i:]
			}
		}
	}
	return nil
}

// TestQueueAgainstOracle runs random histories: acks in any order, sessions
// that end anywhere, servers that step back to an older confirmed position,
// processes that crash and start again from a durable progress of theirs.
func TestQueueAgainstOracle(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		runHistory(t, seed, rng)
		if t.Failed() {
			return
		}
	}
}

func runHistory(t *testing.T, seed uint64, rng *rand.Rand) {
	t.Helper()
	items := randomWAL(rng, 1+rng.IntN(25))
	acked := map[place]int{} // how often each event was published and acked
	q := newQueue(progress{confirm: 1000})
	durable := q.progress() // what a crash leaves
	confirmed := durable.confirm
	for session := 0; ; session++ {
		last := session > 6
		o := &oracle{start: q.progress()}
		sent := serverSends(items, confirmed)
		stop := len(sent)
		if !last {
			stop = rng.IntN(len(sent) + 1)
		}
		tokens := map[uint64]place{}
		var open []uint64
		for _, it := range sent[:stop] {
			if it.commit == 0 {
				q.mark(it.mark)
				o.items = append(o.items, oracleItem{mark: it.mark, acked: true})
			} else {
				token, fresh := q.event(it.place, time.Unix(1, 0))
				if !fresh && acked[it.place] == 0 {
					t.Fatalf("seed %d: event %v is skipped and was never acked", seed, it.place)
				}
				if fresh && acked[it.place] > 0 {
					t.Fatalf("seed %d: event %v is acked and handed out again", seed, it.place)
				}
				o.items = append(o.items, oracleItem{place: it.place, acked: !fresh})
				if fresh {
					tokens[token] = it.place
					open = append(open, token)
				}
			}
			for len(open) > 0 && rng.IntN(2) == 0 {
				open = ackOne(rng, q, o, tokens, open, acked)
			}
			if got, want := q.progress(), o.progress(); got.confirm != want.confirm {
				t.Fatalf("seed %d session %d: confirm %v, oracle %v", seed, session, got, want)
			}
		}
		for len(open) > 0 && (last || rng.IntN(3) > 0) {
			open = ackOne(rng, q, o, tokens, open, acked)
		}
		if rng.IntN(2) == 0 {
			durable = q.progress()
			confirmed = durable.confirm
		}
		if rng.IntN(4) == 0 { // the server crashed and lost its last slot saves
			confirmed = LSN(1000 + rng.IntN(int(confirmed)-999))
		}
		if last {
			break
		}
		if rng.IntN(3) == 0 { // the process dies: only what is durable is left
			q = newQueue(durable)
			clear(acked)
			for _, it := range items {
				if it.commit != 0 && durable.covers(it.place) {
					acked[it.place] = 1
				}
			}
		} else {
			q.rewind()
		}
	}
	for _, it := range items {
		if it.commit != 0 && acked[it.place] == 0 {
			t.Fatalf("seed %d: event %v is lost", seed, it.place)
		}
	}
	if n, _ := q.inFlight(); n != 0 || q.head != len(q.entries) {
		t.Fatalf("seed %d: everything is acked, and %d of %d entries are not in the prefix, %d of them in flight", seed, len(q.entries)-q.head, len(q.entries), n)
	}
}

func ackOne(rng *rand.Rand, q *queue, o *oracle, tokens map[uint64]place, open []uint64, acked map[place]int) []uint64 {
	i := rng.IntN(len(open))
	token := open[i]
	q.ack(token)
	if rng.IntN(8) == 0 {
		q.ack(token) // twice is harmless
	}
	acked[tokens[token]]++
	for j := range o.items {
		if o.items[j].place == tokens[token] {
			o.items[j].acked = true
		}
	}
	return slices.Delete(open, i, i+1)
}

func TestQueueNeverConfirmsInsideTransaction(t *testing.T) {
	q := newQueue(progress{confirm: 10})
	a, _ := q.event(place{100, 0}, time.Time{})
	b, _ := q.event(place{100, 1}, time.Time{})
	q.ack(a)
	if got := q.progress(); got.confirm != 10 || got.commit != 100 || got.events != 1 {
		t.Errorf("after the first of two: %+v", got)
	}
	q.ack(b)
	if got := q.progress(); got.confirm != 10 {
		t.Errorf("confirm %v before the commit has come", got.confirm)
	}
	q.mark(120)
	if got := q.progress(); got.confirm != 120 {
		t.Errorf("confirm %v after the commit, want 120", got.confirm)
	}
}

func TestQueueLateAckAfterRewindIsIgnored(t *testing.T) {
	q := newQueue(progress{})
	old, _ := q.event(place{100, 0}, time.Time{})
	q.rewind()
	fresh, ok := q.event(place{100, 0}, time.Time{})
	if !ok || fresh == old {
		t.Fatalf("token %d, %v after rewind; the old one was %d", fresh, ok, old)
	}
	q.mark(110)
	q.ack(old)
	if got := q.progress(); got.confirm != 0 {
		t.Errorf("an ack of the last session confirmed %v", got.confirm)
	}
	q.ack(fresh)
	if got := q.progress(); got.confirm != 110 {
		t.Errorf("confirm %v, want 110", got.confirm)
	}
}

func TestQueueRewindKeepsAcksAheadAcrossSessions(t *testing.T) {
	q := newQueue(progress{})
	for session := range 3 {
		held, fresh := q.event(place{100, 0}, time.Time{})
		if !fresh {
			t.Fatalf("session %d: the held event is skipped", session)
		}
		_ = held
		for i := range uint32(5) {
			token, fresh := q.event(place{200, i}, time.Time{})
			if fresh != (session == 0) {
				t.Fatalf("session %d: event %d fresh=%v", session, i, fresh)
			}
			if fresh {
				q.ack(token)
			}
			if session == 1 && i == 2 {
				break // a session that ends before it comes to all of them
			}
		}
		q.rewind()
	}
}

// A keepalive may carry the start of the next commit record; that transaction is
// sent again and must not be skipped.
func TestQueuePositionAtCommitCoversNothing(t *testing.T) {
	q := newQueue(progress{confirm: 100})
	if _, fresh := q.event(place{100, 0}, time.Time{}); !fresh {
		t.Error("the transaction whose commit record begins at the confirmed position is skipped")
	}
}

func TestQueueResetForgetsAhead(t *testing.T) {
	q := newQueue(progress{})
	q.event(place{100, 0}, time.Time{})
	b, _ := q.event(place{200, 0}, time.Time{})
	q.ack(b)
	q.rewind()
	q.reset(progress{})
	if _, fresh := q.event(place{200, 0}, time.Time{}); !fresh {
		t.Error("an ack on the old history skips an event of the new one")
	}
}

func TestQueueInFlightOldest(t *testing.T) {
	q := newQueue(progress{})
	q.event(place{100, 0}, time.Unix(1, 0))
	q.event(place{200, 0}, time.Unix(2, 0))
	if n, at := q.inFlight(); n != 2 || !at.Equal(time.Unix(1, 0)) {
		t.Errorf("%d in flight, oldest %s", n, at)
	}
}

// A token of the old history must not ack an event of the new one.
func TestQueueTokensNeverComeTwice(t *testing.T) {
	q := newQueue(progress{})
	old, _ := q.event(place{100, 0}, time.Time{})
	q.reset(progress{})
	q.event(place{100, 0}, time.Time{})
	q.mark(110)
	q.ack(old)
	if got := q.progress(); got.confirm != 0 {
		t.Errorf("confirm %v by a token from before the reset", got.confirm)
	}
}

func TestQueueKeepalivesBehindHeldEventDoNotGrow(t *testing.T) {
	q := newQueue(progress{})
	q.event(place{100, 0}, time.Time{})
	for i := range 100_000 {
		q.mark(LSN(200 + i))
	}
	if n := len(q.entries); n > 2 {
		t.Errorf("%d entries for one event and its keepalives", n)
	}
}

func TestQueueMemoryFollowsUnackedEvents(t *testing.T) {
	q := newQueue(progress{})
	var window []uint64
	for i := range 300_000 {
		token, _ := q.event(place{LSN(1000 + i), 0}, time.Time{})
		window = append(window, token)
		if len(window) == 1000 {
			q.ack(window[0])
			window = window[1:]
		}
	}
	if n := cap(q.entries); n > 16_384 {
		t.Errorf("room for %d entries while 1,000 events are in flight", n)
	}
}

func TestQueueWaitsWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(progress{})
		first, _ := q.event(place{1, 0}, time.Time{})
		for i := range maxSpan - 1 {
			token, _ := q.event(place{LSN(2 + i), 0}, time.Time{})
			q.ack(token)
		}
		returned := make(chan error, 1)
		go func() { returned <- q.wait(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-returned:
			t.Fatalf("wait returned %v on a full queue", err)
		default:
		}
		q.ack(first)
		if err := <-returned; err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := q.wait(ctx); err != nil {
			t.Errorf("wait with room and a dead context: %v", err)
		}
	})
}

func BenchmarkQueue(b *testing.B) {
	q := newQueue(progress{})
	window := make([]uint64, 0, 1024)
	var lsn LSN
	for b.Loop() {
		lsn++
		token, _ := q.event(place{lsn, 0}, time.Time{})
		if window = append(window, token); len(window) == cap(window) {
			for _, t := range window {
				q.ack(t)
			}
			window = window[:0]
		}
	}
}

// Where the server went on without the end of the old history, what is acked
// behind an event that is not counts up to there, and no further.
func TestBranchKeepsWhatIsAckedBelowTheSwitch(t *testing.T) {
	q := newQueue(progress{})
	var tokens []uint64
	for _, commit := range []LSN{10, 20, 30, 40} {
		token, _ := q.event(place{commit: commit}, time.Time{})
		q.mark(commit + 5)
		tokens = append(tokens, token)
	}
	for _, i := range []int{1, 3} { // behind the first, which is not
		q.ack(tokens[i])
	}
	q.branch(progress{confirm: 8}, 40)
	var fresh []LSN
	for _, commit := range []LSN{10, 20, 30, 40} {
		if _, ok := q.event(place{commit: commit}, time.Time{}); ok {
			fresh = append(fresh, commit)
		}
	}
	if !slices.Equal(fresh, []LSN{10, 30, 40}) {
		t.Errorf("published again: %v, want 10, 30 and 40", fresh)
	}
	if got := q.progress(); got.confirm != 8 {
		t.Errorf("goes on from %+v", got)
	}
}
