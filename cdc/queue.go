package cdc

import (
	"context"
	"slices"
	"sync"
	"time"
)

// queue is the safety argument of this package. Everything that moves the
// confirmed position is an entry in it, in WAL order:
//
//   - an event: it has a place (commit, ordinal) and no LSN that could be
//     confirmed, because the middle of a transaction cannot be;
//   - a mark: the end of a commit record, a keepalive outside a transaction, a
//     non-transactional message. It has an LSN and needs no ack.
//
// The acked prefix is what lies before the first event that is not acked. Its
// last mark is the position that may be confirmed, its last event the place up
// to which nothing need be published again. Neither ever moves back.
//
// The queue outlives sessions. rewind begins the next one: events that are not
// acked will be sent again and become new entries; those that are, but lie
// behind one that is not, are remembered by place and skipped when they come
// again, so that one record that is held does not repeat all others at each
// attempt.
//
// Memory is O(unacked events): marks behind an unacked event are merged with
// the mark before them.
//
// Safe for concurrent use: the reader appends, any goroutine acks.
type queue struct {
	mu sync.Mutex

	// entries[head:] are the entries not yet in the acked prefix; the token of
	// entries[i] is base+uint64(i).
	entries []entry
	head    int
	base    uint64

	unacked int // events among the entries that are not acked

	done progress // the acked prefix

	// moved is sent to when an event has entered the acked prefix, room when the
	// prefix has moved while the reader waits.
	moved, room chan struct{}
	waiting     bool

	// ahead are the places of events acked in earlier sessions beyond done, and
	// of one that is to be skipped, ascending; the reader consumes them from the front.
	ahead []place
}

// place is where an event stands in the WAL; it compares like a tuple.
type place struct {
	commit  LSN
	ordinal uint32
}

func (p place) less(q place) bool {
	return p.commit < q.commit || p.commit == q.commit && p.ordinal < q.ordinal
}

// entry is an event if its commit is not zero, else a mark.
type entry struct {
	place
	mark  LSN
	acked bool
	time  int64 // event: commit time, Unix nanoseconds
}

// progress is how far everything is acked.
type progress struct {
	// confirm is the last mark: the highest LSN that may be confirmed.
	confirm LSN
	// commit and events say that the first events events of the transaction
	// whose commit record is at commit are acked, and every transaction
	// before it.
	commit LSN
	events uint32
}

// covers reports whether the event at p is in the acked prefix. A transaction
// whose commit record begins below confirm is covered whole: the server would
// not send it again either.
func (g progress) covers(p place) bool {
	return p.commit < g.confirm || p.commit < g.commit || p.commit == g.commit && p.ordinal < g.events
}

// maxSpan bounds the entries between the first unacked event and the newest
// one: 10 MiB of them. While one event is held for hours the others go on until
// this is full, and then everything waits.
const maxSpan = 1 << 18

func newQueue(from progress) *queue {
	return &queue{done: from, base: 1, moved: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// wait returns when there is room for another entry, or with ctx's cause.
func (q *queue) wait(ctx context.Context) error {
	for {
		q.mu.Lock()
		full := len(q.entries)-q.head >= maxSpan
		q.waiting = full
		q.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-q.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// event appends the event at p. It returns its token, or false when the event
// was acked before and must be skipped.
func (q *queue) event(p place, commitTime time.Time) (uint64, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done.covers(p) {
		return 0, false
	}
	for len(q.ahead) > 0 && q.ahead[0].less(p) {
		q.ahead = q.ahead[1:]
	}
	acked := len(q.ahead) > 0 && q.ahead[0] == p
	if acked {
		q.ahead = q.ahead[1:]
	} else {
		q.unacked++
	}
	token := q.push(entry{place: p, acked: acked, time: commitTime.UnixNano()})
	if acked {
		q.advance()
	}
	return token, !acked
}

// mark appends a position that may be confirmed once everything before it is
// acked. A position at or below one that was appended before is no news.
func (q *queue) mark(lsn LSN) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if lsn <= q.done.confirm {
		return
	}
	if n := len(q.entries); n > q.head && q.entries[n-1].commit == 0 {
		if last := &q.entries[n-1]; lsn > last.mark {
			last.mark = lsn
		}
		return
	}
	q.push(entry{mark: lsn, acked: true})
	q.advance()
}

// ack marks the event of token. A token from before the last rewind is
// ignored: its event will be, or was, sent again under another one.
func (q *queue) ack(token uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := int(token - q.base)
	if token < q.base || i < q.head || i >= len(q.entries) || q.entries[i].acked {
		return
	}
	q.entries[i].acked = true
	q.unacked--
	if i == q.head {
		q.advance()
	}
}

// rewind begins a session on the same history: the server will send again
// whatever was not confirmed. The caller must know that no event of the last
// session will still be delivered by a broker after this.
func (q *queue) rewind() {
	q.mu.Lock()
	defer q.mu.Unlock()
	var ahead []place
	for _, e := range q.entries[q.head:] {
		if e.commit != 0 && e.acked {
			ahead = append(ahead, e.place)
		}
	}
	// Places that this session never came to are still ahead, and all of them
	// lie behind those it did.
	q.ahead = append(ahead, q.ahead...)
	q.base += uint64(len(q.entries))
	q.entries, q.head, q.unacked = nil, 0, 0
}

// branch begins a session on a history that left the one of the last session at
// the LSN at, from to: as rewind, but an event at or beyond at was another one.
func (q *queue) branch(to progress, at LSN) {
	q.rewind()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done = to
	for n := len(q.ahead); n > 0 && q.ahead[n-1].commit >= at; n-- {
		q.ahead = q.ahead[:n-1]
	}
}

// reset begins a session on a history that someone else may have moved on:
// nothing of the old one counts but the tokens, which never come twice.
func (q *queue) reset(to progress) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.base += uint64(len(q.entries))
	q.entries, q.head, q.unacked, q.ahead = nil, 0, 0, nil
	q.done = to
}

// skip makes the event at p count as acked when it comes. It reports whether
// that is news.
func (q *queue) skip(p place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := 0
	for i < len(q.ahead) && q.ahead[i].less(p) {
		i++
	}
	if i < len(q.ahead) && q.ahead[i] == p {
		return false
	}
	q.ahead = slices.Insert(q.ahead, i, p)
	return true
}

// progress returns the acked prefix.
func (q *queue) progress() progress {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.done
}

// inFlight returns the number of events not acked and the commit time of the
// first of them, zero if there is none.
func (q *queue) inFlight() (int, time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.entries) {
		return 0, time.Time{}
	}
	return q.unacked, time.Unix(0, q.entries[q.head].time)
}

func (q *queue) push(e entry) uint64 {
	if q.head == len(q.entries) {
		// Nothing is outstanding: begin again at the front of the array.
		q.base += uint64(len(q.entries))
		q.entries, q.head = q.entries[:0], 0
	} else if q.head > 1024 && q.head*2 > len(q.entries) {
		// More than half is done: move the rest to the front, which costs
		// each entry at most one move on average.
		n := copy(q.entries, q.entries[q.head:])
		q.base += uint64(q.head)
		q.entries, q.head = q.entries[:n], 0
	}
	q.entries = append(q.entries, e)
	return q.base + uint64(len(q.entries)-1)
}

// advance moves the acked prefix over the entries that are acked.
func (q *queue) advance() {
	events := false
	for q.head < len(q.entries) && q.entries[q.head].acked {
		e := &q.entries[q.head]
		if e.commit == 0 {
			q.done.confirm = max(q.done.confirm, e.mark)
		} else {
			q.done.commit, q.done.events = e.commit, e.ordinal+1
			events = true
		}
		q.head++
	}
	if events {
		wake(q.moved)
	}
	if q.waiting {
		q.waiting = false
		wake(q.room)
	}
}

// wake sends to a channel with room for one, unless that is full.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
