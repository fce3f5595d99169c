package rabbitmq

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/outboxd/outboxd/publisher"
)

// oracle is a tracker without any idea: a list of all records with their state,
// looked through from the start each time.
type oracle struct {
	strict bool
	items  []*item
	moment int
}

type item struct {
	r        *publisher.Record
	state    string // waiting, ready, flying, acked, failed, aborted
	since    int    // when it became ready or was sent
	returned bool
}

func (o *oracle) set(it *item, state string) {
	o.moment++
	it.state, it.since = state, o.moment
}

// settle makes ready what may be sent.
func (o *oracle) settle() {
	for i, it := range o.items {
		if it.state != "waiting" {
			continue
		}
		if o.strict && it.r.Key != nil && slices.ContainsFunc(o.items[:i], func(e *item) bool {
			return e.r.Key != nil && string(e.r.Key) == string(it.r.Key) && e.state != "acked"
		}) {
			continue
		}
		o.set(it, "ready")
	}
}

// first returns the item that has been in the state for longest.
func (o *oracle) first(state string) (found *item) {
	for _, it := range o.items {
		if it.state == state && (found == nil || it.since < found.since) {
			found = it
		}
	}
	return found
}

func (o *oracle) in(states ...string) (records []*publisher.Record) {
	for _, it := range o.items {
		if slices.Contains(states, it.state) {
			records = append(records, it.r)
		}
	}
	return records
}

func (o *oracle) failedBefore(it *item) bool {
	return it.r.Key != nil && slices.ContainsFunc(o.items, func(e *item) bool {
		return e.state == "failed" && e.r.Key != nil && string(e.r.Key) == string(it.r.Key)
	})
}

// stop aborts what was not sent and compares.
func (o *oracle) stop(t *testing.T, aborted []*publisher.Record) {
	t.Helper()
	want := o.in("waiting", "ready")
	byToken := func(a, b *publisher.Record) int { return int(a.Token) - int(b.Token) }
	got := slices.SortedFunc(slices.Values(aborted), byToken)
	if !slices.Equal(got, want) {
		t.Fatalf("gave up %d records, want %d", len(got), len(want))
	}
	for _, it := range o.items {
		if it.state == "waiting" || it.state == "ready" {
			o.set(it, "aborted")
		}
	}
}

func TestTrackerAgainstOracle(t *testing.T) {
	for seed := range uint64(2000) {
		strict := seed%2 == 0
		t.Run(fmt.Sprintf("strict=%t/%d", strict, seed), func(t *testing.T) {
			walk(t, strict, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

// walk takes random steps, and compares after each.
func walk(t *testing.T, strict bool, rnd *rand.Rand) {
	const window, maxBytes = 12, 400
	tr := newTracker(strict, window, maxBytes)
	o := &oracle{strict: strict}
	for range 300 {
		switch n := rnd.IntN(100); {
		case n < 45:
			stepAdd(t, tr, o, rnd, window, maxBytes)
		case n < 70:
			stepNext(t, tr, o)
		case n < 92:
			stepAck(t, tr, o)
		case n < 96:
			stepReturn(tr, o, rnd)
		case n < 98 && len(o.in("flying")) > 0:
			it := o.first("flying")
			o.set(it, "failed")
			o.stop(t, tr.fail())
		case n < 99 && len(o.in("ready")) > 0:
			stepTakeBack(t, tr, o)
		}
		o.settle()
		compare(t, tr, o)
	}
	for tr.flight.len() > 0 {
		stepAck(t, tr, o)
		o.settle()
	}
	o.stop(t, tr.stop())
	compare(t, tr, o)
}

func stepAdd(t *testing.T, tr *tracker, o *oracle, rnd *rand.Rand, window, maxBytes int) {
	if tr.stopped {
		return
	}
	r := &publisher.Record{Token: uint64(len(o.items)), ID: fmt.Sprint(rnd.IntN(6)), Value: make([]byte, rnd.IntN(100))}
	if k := rnd.IntN(4); k > 0 {
		r.Key = []byte{'k', byte(k)}[:k-1] // empty, one and two bytes
	}
	held := o.in("waiting", "ready", "flying")
	size := r.Size()
	for _, h := range held {
		size += h.Size()
	}
	room := len(held) == 0 || len(held) < window && size <= maxBytes
	if got := tr.admits(r); got != room {
		t.Fatalf("admits a record of %d bytes: %t, want %t", r.Size(), got, room)
	}
	if !room {
		return
	}
	it := &item{r: r, state: "waiting"}
	o.items = append(o.items, it)
	o.settle()
	if waits := tr.add(r); waits != (it.state == "waiting") {
		t.Fatalf("add says the record waits: %t, it is %s", waits, it.state)
	}
}

func stepNext(t *testing.T, tr *tracker, o *oracle) *item {
	t.Helper()
	got := tr.next()
	it := o.first("ready")
	if it == nil {
		if got != nil {
			t.Fatalf("sends record %d, want none", got.Token)
		}
		return nil
	}
	if got != it.r {
		t.Fatalf("next is %v, want record %d", got, it.r.Token)
	}
	o.set(it, "flying")
	return it
}

func stepAck(t *testing.T, tr *tracker, o *oracle) {
	t.Helper()
	it := o.first("flying")
	if it == nil {
		return
	}
	if f := tr.oldest(); f.r != it.r || f.returned != it.returned {
		t.Fatalf("oldest in flight is %d (returned %t), want %d (%t)", f.r.Token, f.returned, it.r.Token, it.returned)
	}
	passed := o.failedBefore(it)
	if got := tr.ack(); got != passed {
		t.Fatalf("record %d passed a failed one: %t, want %t", it.r.Token, got, passed)
	}
	o.set(it, "acked")
	if passed {
		it.state = "failed"
	}
}

func stepReturn(tr *tracker, o *oracle, rnd *rand.Rand) {
	id := fmt.Sprint(rnd.IntN(6))
	tr.markReturned(func(r *publisher.Record) bool { return r.ID == id })
	for _, it := range o.items {
		if it.state == "flying" && it.r.ID == id {
			it.returned = true
		}
	}
}

func stepTakeBack(t *testing.T, tr *tracker, o *oracle) {
	t.Helper()
	it := stepNext(t, tr, o)
	o.set(it, "failed")
	o.stop(t, tr.takeBack())
}

func compare(t *testing.T, tr *tracker, o *oracle) {
	t.Helper()
	held := o.in("waiting", "ready", "flying")
	bytes := 0
	for _, r := range held {
		bytes += r.Size()
	}
	if tr.held() != len(held) || tr.bytes != bytes || tr.unsent() != len(o.in("waiting", "ready")) || tr.waiting != len(o.in("waiting")) {
		t.Fatalf("held %d, bytes %d, unsent %d, waiting %d; want %d, %d, %d, %d", tr.held(), tr.bytes, tr.unsent(), tr.waiting,
			len(held), bytes, len(o.in("waiting", "ready")), len(o.in("waiting")))
	}
	if tr.stopped || !tr.strict {
		return
	}
	keys := make(map[string]bool)
	for _, r := range o.in("ready", "flying") {
		if r.Key == nil {
			continue
		}
		if keys[string(r.Key)] {
			t.Fatalf("two records of key %q are on their way", r.Key)
		}
		keys[string(r.Key)] = true
	}
	if len(tr.chains) != len(keys) {
		t.Fatalf("%d chains for %d keys on their way", len(tr.chains), len(keys))
	}
}

func TestTrackerTakesOneRecordOfAnySize(t *testing.T) {
	tr := newTracker(true, 1, 10)
	big := &publisher.Record{Value: make([]byte, 1000)}
	if !tr.admits(big) {
		t.Fatal("an empty tracker has no room for a large record")
	}
	tr.add(big)
	if tr.admits(&publisher.Record{}) {
		t.Error("a full tracker has room")
	}
}

// TestTrackerDrop: of what is in flight the newest go, which the connection has
// not begun to send.
func TestTrackerDrop(t *testing.T) {
	tr := newTracker(false, 10, 1000)
	for i := range 5 {
		tr.add(&publisher.Record{Token: uint64(i), Value: make([]byte, 10)})
	}
	for i := range 4 {
		tr.next()
		tr.written(int64(100 * (i + 1)))
	}
	var tokens []uint64
	for _, r := range tr.drop(200) {
		tokens = append(tokens, r.Token)
	}
	if !slices.Equal(tokens, []uint64{3, 2}) || tr.flight.len() != 2 || tr.unsent() != 1 || tr.bytes != 30 {
		t.Errorf("dropped %v, %d in flight, %d unsent, %d bytes", tokens, tr.flight.len(), tr.unsent(), tr.bytes)
	}
}

func TestFIFO(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	var q fifo[int]
	var want []int
	for i := range 20000 {
		// Runs of pushes and of pops, so that it grows, moves and empties.
		switch pushing := i/37%2 == 0; {
		case pushing || len(want) == 0:
			q.push(i)
			want = append(want, i)
		case rnd.IntN(10) == 0:
			if got := q.popNewest(); got != want[len(want)-1] {
				t.Fatalf("popNewest is %d, want %d", got, want[len(want)-1])
			}
			want = want[:len(want)-1]
		default:
			if got := q.pop(); got != want[0] {
				t.Fatalf("pop is %d, want %d", got, want[0])
			}
			want = want[1:]
		}
		if q.len() != len(want) || !slices.Equal(q.all(), want) {
			t.Fatalf("step %d: holds %v, want %v", i, q.all(), want)
		}
	}
	if c := cap(q.items); c > 1000 {
		t.Errorf("a queue of at most a few dozen items has room for %d", c)
	}
}
