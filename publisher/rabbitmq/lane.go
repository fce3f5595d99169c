package rabbitmq

import (
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/publisher"
)

// lane is one channel with its writer and its collector.
type lane struct {
	p  *Publisher
	ch *amqp.Channel

	// returns holds a window of returns. The library drops a return that nobody
	// takes for 5 seconds, and a dropped return turns a lost record into an
	// acked one. It never comes to that: a return stays here only until the
	// collector settles its record, and at most a window of records is unsettled.
	returns chan amqp.Return
	died    chan *amqp.Error
	// sent holds the confirms of what is in flight, in the order of sending. It
	// is closed when the writer has ended.
	sent chan *amqp.DeferredConfirmation

	// dropped is closed when what the wire had not begun to send is out of the
	// tracker: its confirms in sent do not come.
	dropped chan struct{}

	wake chan struct{} // to the writer: look at the tracker
	room chan struct{} // to Publish: look at the tracker

	mu      sync.Mutex
	tracker *tracker
	closing bool

	// Of the collector alone: why the channel ended.
	death  error
	reason *amqp.Error
}

func (p *Publisher) openLane() (*lane, error) {
	ch, err := p.session.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	l := &lane{
		p: p, ch: ch,
		returns: ch.NotifyReturn(make(chan amqp.Return, p.config.Window)),
		died:    ch.NotifyClose(make(chan *amqp.Error, 1)),
		sent:    make(chan *amqp.DeferredConfirmation, p.config.Window),
		dropped: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		room:    make(chan struct{}, 1),
		tracker: newTracker(p.config.Ordering == Strict, p.config.Window, p.config.WindowBytes),
	}
	if err := ch.Confirm(false); err != nil {
		return nil, fmt.Errorf("select confirms: %w", err)
	}
	return l, nil
}

// offer takes r if there is room.
func (l *lane) offer(r *publisher.Record) (taken bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closing:
		return false, publisher.ErrClosed
	case l.p.failure() != nil:
		// Asked of the publisher, not of this lane: a failure stops one lane
		// after the other, and what one has declined no other may take.
		return false, fmt.Errorf("publisher is broken: %w", l.p.failure())
	case !l.tracker.admits(r):
		return false, nil
	}
	if l.tracker.add(r) {
		l.p.count.chained.Add(1)
	}
	signal(l.wake)
	return true, nil
}

// hot says whether most of what the lane holds waits for its key.
func (l *lane) hot() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tracker.waiting*2 >= l.tracker.held()
}

// close has the lane take nothing more, and write nothing more.
func (l *lane) close() {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.stop(l.p.closedError())
}

// drop gives up the records that end behind the first n bytes of the wire. The
// writer has ended.
func (l *lane) drop(n int64) {
	l.mu.Lock()
	aborted := l.tracker.drop(n)
	l.mu.Unlock()
	close(l.dropped)
	l.abandon(aborted, l.p.closedError())
}

// stop gives up what was not sent, with the outcome err.
func (l *lane) stop(err error) {
	l.mu.Lock()
	aborted := l.tracker.stop()
	l.mu.Unlock()
	l.abandon(aborted, err)
}

// abandon reports what a stopped tracker has given up.
func (l *lane) abandon(aborted []*publisher.Record, err error) {
	for _, r := range aborted {
		l.p.done(r, err)
	}
	signal(l.wake)
	signal(l.room)
	l.p.session.wire.nudge()
}

func (l *lane) stopped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tracker.stopped
}

// write sends records until nothing more can come.
func (l *lane) write() {
	defer close(l.sent)
	wire := l.p.session.wire
	holding := false
	for {
		// Before a record is taken: one that waits here is not in flight.
		wire.waitRoom(l.stopped)
		r, ended := l.take()
		if r == nil {
			if holding {
				wire.release()
				holding = false
			}
			if ended {
				return
			}
			<-l.wake
			continue
		}
		if !holding {
			wire.hold()
			holding = true
		}
		if !l.send(r) {
			wire.release()
			return
		}
	}
}

// take returns the next record to send. ended says that none will come.
func (l *lane) take() (r *publisher.Record, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.tracker.next(); r != nil {
		return r, false
	}
	return nil, l.tracker.stopped
}

// send publishes r and says whether the writer may go on.
func (l *lane) send(r *publisher.Record) bool {
	m, err := message(r, l.p.mode, l.p.session.limit)
	if err != nil {
		l.p.setFailure(err)
		l.mu.Lock()
		aborted := l.tracker.takeBack()
		l.mu.Unlock()
		l.p.done(r, err)
		l.abandon(aborted, abortedError(err))
		l.p.fail(err)
		return false
	}
	l.p.session.check.sent.Add(1)
	var confirm *amqp.DeferredConfirmation
	end, err := l.p.session.wire.writeRecord(r.Size(), func() (err error) {
		confirm, err = l.ch.PublishWithDeferredConfirm(l.p.config.Exchange, r.Topic, true, false, m)
		return err
	})
	if err != nil {
		// The channel has ended, or must: what of the record is in the buffer is
		// not known. The collector reports it.
		if !errors.Is(err, amqp.ErrClosed) {
			l.p.session.abort(fmt.Errorf("send record: %w", err))
		}
		return false
	}
	l.mu.Lock()
	l.tracker.written(end)
	l.mu.Unlock()
	l.sent <- confirm // has room for a window
	return true
}

// collect settles what was sent, in the order of sending, and ends after the
// writer, when nothing is left.
func (l *lane) collect() {
	died := l.died
	for {
		select {
		case confirm, open := <-l.sent:
			if !open {
				l.settleRest()
				return
			}
			l.await(confirm)
			l.settle(l.verdict(confirm))
		case e := <-died:
			died = nil
			l.die(e)
		}
	}
}

// await waits until confirm is resolved, which is at the latest when the
// channel ends, and ends the connection when that takes too long. It does not
// wait when its record was dropped: nothing is in flight then, because what was
// sent before it is settled.
func (l *lane) await(confirm *amqp.DeferredConfirmation) {
	select {
	case <-confirm.Done():
		return
	default:
	}
	timeout := l.p.config.ConfirmTimeout
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	dropped := l.dropped
	for {
		select {
		case <-confirm.Done():
			return
		case <-dropped:
			if l.inFlight() == 0 {
				return
			}
			dropped = nil
		case <-timer.C:
			if since, _ := l.p.blocked.get(); since.IsZero() && !l.onItsWay() {
				l.p.session.abort(fmt.Errorf("the broker has confirmed nothing for %v", timeout))
			}
			timer.Reset(timeout)
		}
	}
}

// onItsWay says that the oldest record in flight has not left yet: a large one on
// a slow line, which the write timeout looks after.
func (l *lane) onItsWay() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tracker.flight.len() > 0 && l.tracker.oldest().end > l.p.session.wire.written()
}

// settleRest gives an outcome to a record whose sending failed.
func (l *lane) settleRest() {
	for l.inFlight() > 0 {
		l.settle(lost)
	}
}

func (l *lane) inFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tracker.flight.len()
}

// verdict is what is known of a record in flight.
type verdict int

const (
	acked   verdict = iota
	refused         // basic.nack
	lost            // the channel ended first
)

// verdict reads a resolved confirmation. The library resolves what is pending
// when a channel ends as not acked, after it has marked the channel as closed:
// so a real nack is one on a channel that is open. (One that comes right before
// the end passes for lost, which is true of it as well.)
//
// The library's NotifyPublish would tell them apart, but is not to be trusted:
// a nack that came out of order is reported as an ack when an ack of several
// records spans it later.
func (l *lane) verdict(confirm *amqp.DeferredConfirmation) verdict {
	switch {
	case confirm.Acked():
		return acked
	case l.ch.IsClosed():
		return lost
	}
	return refused
}

// settle gives the oldest record in flight its outcome, if none was dropped in
// its place.
func (l *lane) settle(v verdict) {
	if v == lost {
		l.die(l.reason)
	}
	// A return stands in its channel before the ack of its record is seen.
	l.takeReturns()
	l.mu.Lock()
	if l.tracker.flight.len() == 0 {
		l.mu.Unlock()
		return
	}
	oldest := l.tracker.oldest()
	err := l.outcome(oldest, v)
	if err == nil {
		if l.tracker.ack() {
			err = passedError(l.p.failure())
		}
		l.mu.Unlock()
		l.p.done(oldest.r, err)
		signal(l.wake)
		signal(l.room)
		return
	}
	// Before the tracker stops, so that Publish knows why it has.
	l.p.setFailure(err)
	aborted := l.tracker.fail()
	l.mu.Unlock()
	l.p.done(oldest.r, err)
	l.abandon(aborted, abortedError(err))
	l.p.fail(err)
}

// outcome judges one record and counts it. It may be another of the same id that
// was returned, so that a record without an answer is not discarded for it.
func (l *lane) outcome(f flying, v verdict) error {
	switch {
	case v == refused:
		l.p.count.nacked.Add(1)
		return nackError(f.r)
	case f.returned && l.p.config.Unroutable != Discard:
		return unroutableError(f.r, l.p.config.Exchange, l.p.config.Unroutable)
	case v == lost:
		return l.lostError(f.r)
	case f.returned:
		l.p.count.discarded.Add(1)
		return nil
	}
	l.p.count.published.Add(1)
	return nil
}

// lostError judges a record that the end of the channel has overtaken. Over a
// record that is too large the broker ends the channel and names its size; the
// oldest in flight of that size is the one, because the broker would have
// stumbled over an earlier one of that size, and looks at nothing behind it.
func (l *lane) lostError(r *publisher.Record) error {
	if size, limit, ok := sizeRefused(l.reason); ok && size == len(r.Value) {
		err := tooLargeError(size, limit, l.reason)
		l.reason = nil
		return err
	}
	return unknownError(l.death)
}

// takeReturns marks what was returned. All returns that precede the ack which
// is being settled are in the channel already: the library's reader has put
// them there before it resolved the ack.
func (l *lane) takeReturns() {
	for {
		select {
		case ret, open := <-l.returns:
			if !open {
				l.returns = nil
				return
			}
			l.p.count.returned.Add(1)
			l.mu.Lock()
			l.tracker.markReturned(func(r *publisher.Record) bool {
				return r.ID == ret.MessageId && r.Topic == ret.RoutingKey
			})
			l.mu.Unlock()
		default:
			return
		}
	}
}

// die learns why the channel ended, once, and stops the publisher.
func (l *lane) die(e *amqp.Error) {
	if l.death != nil {
		return
	}
	if e == nil {
		e = <-l.died // nil when the channel was closed without an error
	}
	l.reason = e
	l.death = l.p.deathCause(e)
	l.p.fail(l.death)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
