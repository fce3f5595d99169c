package rabbitmq

import "github.com/outboxd/outboxd/publisher"

// tracker decides which record of a lane may be sent, and knows what is held.
// A record is ready, or waits behind an unconfirmed one of its key (strict
// order only), or is in flight, in the order of sending. The tracker is not
// safe for concurrent use.
//
// Its invariant is the guarantee of strict order: of one key, at most one
// record is ready or in flight, and it is the oldest. A key whose record failed
// sends nothing more.
type tracker struct {
	strict   bool
	window   int // records
	maxBytes int

	ready  fifo[*publisher.Record]
	flight fifo[flying]
	// chains has an entry for each key with a record that is ready or in flight.
	chains  map[string]*fifo[*publisher.Record]
	waiting int // records in chains
	bytes   int // of all that is held

	stopped bool
	// failedKeys have a failed record. Those behind it that were sent already
	// (pipelined only) must not pass for acked.
	failedKeys map[string]struct{}
}

// flying is a record that was sent.
type flying struct {
	r        *publisher.Record
	end      int64 // among all bytes of the connection; 0: not written yet
	returned bool
}

func newTracker(strict bool, window, maxBytes int) *tracker {
	return &tracker{
		strict: strict, window: window, maxBytes: maxBytes,
		chains:     make(map[string]*fifo[*publisher.Record]),
		failedKeys: make(map[string]struct{}),
	}
}

// held is the number of records without an outcome.
func (t *tracker) held() int { return t.unsent() + t.flight.len() }

// unsent is the number of records that were not sent yet.
func (t *tracker) unsent() int { return t.ready.len() + t.waiting }

// admits says whether there is room for r. A record of any size finds room
// when nothing is held.
func (t *tracker) admits(r *publisher.Record) bool {
	return t.held() == 0 || t.held() < t.window && t.bytes+r.Size() <= t.maxBytes
}

// add takes r and says whether it has to wait for its key.
func (t *tracker) add(r *publisher.Record) (waits bool) {
	t.bytes += r.Size()
	if !t.strict || r.Key == nil {
		t.ready.push(r)
		return false
	}
	if chain := t.chains[string(r.Key)]; chain != nil {
		chain.push(r)
		t.waiting++
		return true
	}
	t.chains[string(r.Key)] = new(fifo[*publisher.Record])
	t.ready.push(r)
	return false
}

// next puts the oldest ready record in flight and returns it, or nil.
func (t *tracker) next() *publisher.Record {
	if t.ready.len() == 0 {
		return nil
	}
	r := t.ready.pop()
	t.flight.push(flying{r: r})
	return r
}

// written says where the record ends that next returned last.
func (t *tracker) written(end int64) {
	flight := t.flight.all()
	flight[len(flight)-1].end = end
}

// drop removes the records in flight that end behind the first n bytes, which
// are the newest. They were never sent.
func (t *tracker) drop(n int64) (dropped []*publisher.Record) {
	for t.flight.len() > 0 {
		newest := t.flight.all()[t.flight.len()-1]
		if newest.end <= n {
			break
		}
		dropped = append(dropped, t.flight.popNewest().r)
		t.bytes -= newest.r.Size()
	}
	return dropped
}

// takeBack removes the record that next returned last: it was not sent and has
// failed. What it returns is as in fail.
func (t *tracker) takeBack() (aborted []*publisher.Record) {
	return t.failed(t.flight.popNewest().r)
}

// markReturned marks the records in flight for which match is true. A return
// names no delivery tag; when several records fit it, all of them are marked:
// a record that is published again is a duplicate, one that is wrongly taken
// for delivered is lost.
func (t *tracker) markReturned(match func(*publisher.Record) bool) {
	flight := t.flight.all()
	for i := range flight {
		if !flight[i].returned && match(flight[i].r) {
			flight[i].returned = true
		}
	}
}

// oldest returns the record in flight that was sent first.
func (t *tracker) oldest() flying { return t.flight.all()[0] }

// ack removes the oldest record in flight and frees the next of its key. It
// returns true when an earlier record of the key has failed: the record was
// sent before that was known, and must be reported as given up.
func (t *tracker) ack() (passed bool) {
	r := t.flight.pop().r
	t.bytes -= r.Size()
	if r.Key == nil {
		return false
	}
	if _, failed := t.failedKeys[string(r.Key)]; failed {
		return true
	}
	chain := t.chains[string(r.Key)]
	switch {
	case chain == nil:
	case chain.len() == 0:
		delete(t.chains, string(r.Key))
	default:
		t.ready.push(chain.pop())
		t.waiting--
	}
	return false
}

// fail removes the oldest record in flight, which failed, and stops the
// tracker as stop does.
func (t *tracker) fail() (aborted []*publisher.Record) {
	return t.failed(t.flight.pop().r)
}

func (t *tracker) failed(r *publisher.Record) (aborted []*publisher.Record) {
	t.bytes -= r.Size()
	if r.Key != nil {
		t.failedKeys[string(r.Key)] = struct{}{}
	}
	return t.stop()
}

// stop gives up all that was not sent and returns it. Nothing is ready any
// more, and nothing may be added.
func (t *tracker) stop() (aborted []*publisher.Record) {
	t.stopped = true
	aborted = append(aborted, t.ready.all()...)
	for _, chain := range t.chains {
		aborted = append(aborted, chain.all()...)
	}
	for _, r := range aborted {
		t.bytes -= r.Size()
	}
	t.ready = fifo[*publisher.Record]{}
	t.chains = make(map[string]*fifo[*publisher.Record])
	t.waiting = 0
	return aborted
}
