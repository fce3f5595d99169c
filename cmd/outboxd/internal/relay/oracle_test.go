package relay_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// TestParkingAgainstOracle: random events, poison, retries, discards, lost
// brokers, stops, takeovers, crashes and failovers. Whatever happens, of each key the first
// deliveries are in order and the last one is of its last event, nothing that is
// discarded is delivered, and in the end every event was delivered or discarded.
func TestParkingAgainstOracle(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			simulated(t, func(t *testing.T) { (&play{rng: rand.New(rand.NewPCG(seed, 7))}).run(t) })
		})
	}
}

// play is one random history.
type play struct {
	rng *rand.Rand
	b   *bench
	y   *yard

	mu     sync.Mutex
	poison map[string]bool // ids that the broker refuses: true if the publisher knows
	keys   map[string]string
	n      int
}

func (p *play) run(t *testing.T) {
	p.b = newBench(t)
	p.y = p.b.park(relay.ParkKey)
	p.y.batch, p.y.lag = 1+p.rng.IntN(4), time.Duration(p.rng.IntN(10_000))*time.Millisecond
	p.y.write = func() error {
		time.Sleep(time.Duration(len(p.y.parked())%40) * time.Millisecond)
		return nil
	}
	p.poison, p.keys = map[string]bool{}, map[string]string{}
	p.b.broker.Lanes = 1 + p.rng.IntN(6)
	p.b.broker.Script, p.b.broker.Limit = p.answer, p.inspect
	p.b.DrainTimeout = 2 * time.Second
	p.b.start()
	for range 120 {
		p.step()
		settle(time.Duration(p.rng.IntN(700)) * time.Millisecond)
		p.b.running()
	}
	p.end()
}

func (p *play) answer(r *publisher.Record) publishertest.Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := publishertest.Answer{After: time.Duration(len(r.ID)%3) * 7 * time.Millisecond}
	if _, refused := p.poison[r.ID]; refused {
		a.Err = tooLarge()
	}
	return a
}

func (p *play) inspect(r *publisher.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.poison[r.ID] {
		return tooLarge()
	}
	return nil
}

func (p *play) step() {
	switch p.rng.IntN(13) {
	case 0, 1:
		p.y.mark(parked.Retry, p.someParked()...)
	case 2:
		p.y.mark(parked.Discard, p.someParked()...)
	case 3: // the limit is raised for some
		p.mu.Lock()
		for id := range p.poison {
			if p.rng.IntN(3) == 0 {
				delete(p.poison, id)
			}
		}
		p.mu.Unlock()
	case 4:
		p.b.broker.Cut()
	case 5:
		if err := p.b.finish(); err != nil {
			p.b.t.Error(err)
		}
		p.b.start()
	case 6: // another relay leads for a while, and publishes nothing
		p.b.slot.take(true)
		p.b.broker.Cut()
		settle(3 * time.Second)
		p.b.slot.take(false)
	case 7: // another process knows what the witness says, maybe in another epoch
		if err := p.b.finish(); err != nil {
			p.b.t.Error(err)
		}
		p.b.slot.rewind(p.y.witness)
		if p.rng.IntN(2) == 0 {
			p.b.slot.failOver()
		}
		p.b.start()
	default:
		for range 1 + p.rng.IntN(6) {
			p.insert()
		}
	}
}

func (p *play) insert() {
	id, key := event(p.n), fmt.Sprint("k", p.rng.IntN(4))
	p.n++
	p.mu.Lock()
	p.keys[id] = key
	if p.rng.IntN(8) == 0 {
		p.poison[id] = p.rng.IntN(2) == 0
	}
	p.mu.Unlock()
	p.b.slot.insert(id, key)
}

// someParked are the ids of some rows, none for all.
func (p *play) someParked() []string {
	if p.rng.IntN(3) == 0 {
		return nil
	}
	ids := []string{"nobody"}
	for _, entry := range strings.Fields(p.y.parked()) {
		if id, _, _ := strings.Cut(entry, ":"); p.rng.IntN(3) == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// end lets everything be released and judges.
func (p *play) end() {
	p.mu.Lock()
	clear(p.poison)
	p.mu.Unlock()
	for range 20 {
		p.y.mark(parked.Retry)
		settle(40 * time.Second)
	}
	p.b.expect("parked in the end", p.y.parked(), "")
	if err := p.b.finish(); err != nil {
		p.b.t.Error(err)
	}
	last := map[string]string{} // the last first delivery of each key
	delivered := map[string]bool{}
	for _, r := range p.b.broker.Stored() {
		if delivered[r.ID] {
			continue
		}
		delivered[r.ID] = true
		if key := string(r.Key); r.ID < last[key] {
			p.b.t.Errorf("%s of %s first came after %s", r.ID, key, last[key])
		} else {
			last[key] = r.ID
		}
	}
	newest := map[string]string{} // the last delivery of each key
	for _, r := range p.b.broker.Stored() {
		newest[string(r.Key)] = r.ID
	}
	for key, id := range newest {
		if id != last[key] {
			p.b.t.Errorf("the last delivery of %s is %s, not %s", key, id, last[key])
		}
	}
	for i := range p.n {
		id := event(i)
		discarded := slices.Contains(p.y.history, "x"+id)
		if delivered[id] == discarded {
			p.b.t.Errorf("%s of %s: delivered %v, discarded %v", id, p.keys[id], delivered[id], discarded)
		}
	}
}
