package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/publisher"
)

// Publisher publishes to one exchange over one connection. It implements
// publisher.Publisher.
type Publisher struct {
	config  Config
	session *session
	mode    uint8 // delivery mode
	report  publisher.Done
	lanes   []*lane
	unkeyed uint // records without a key so far; of Publish alone

	count   counters
	blocked blockage

	first    atomic.Pointer[error] // the first failure
	gaveUp   atomic.Bool           // Close no longer waits
	givenUp  atomic.Int64          // records, by Close
	warnHot  sync.Once
	writers  sync.WaitGroup // of the lanes
	shut     sync.Once
	drained  chan struct{} // closed when the lanes have ended
	watched  chan struct{} // closed when the connection's watcher has ended
	finish   sync.Once
	finished chan struct{} // closed when finish is done
}

// Open connects to the broker, checks that the exchange is there, and returns a
// publisher that reports outcomes to done and asks guard before each write. The
// publisher does not outlive ctx's end during Open; later ctx means nothing to it.
//
// Errors: *publisher.ConfigError (options, certificates, login),
// *publisher.HeldError (missing exchange, vhost or permission); all else is
// worth trying again.
func Open(ctx context.Context, c Config, done publisher.Done, guard publisher.Guard) (*Publisher, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s, err := connect(ctx, c, guard)
	if err != nil {
		return nil, err
	}
	p := &Publisher{
		config: c, session: s, mode: amqp.Persistent, report: done,
		drained: make(chan struct{}), watched: make(chan struct{}), finished: make(chan struct{}),
	}
	if c.Transient {
		p.mode = amqp.Transient
	}
	stop := context.AfterFunc(ctx, func() { s.abort(context.Cause(ctx)) })
	err = p.prepare()
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		s.abort(err)
		return nil, err
	}
	p.start()
	return p, nil
}

func (p *Publisher) prepare() error {
	if err := p.session.checkExchange(p.config.Exchange); err != nil {
		return err
	}
	for range p.config.Channels {
		l, err := p.openLane()
		if err != nil {
			return err
		}
		p.lanes = append(p.lanes, l)
	}
	return nil
}

func (p *Publisher) start() {
	var collectors sync.WaitGroup
	for _, l := range p.lanes {
		p.writers.Go(l.write)
		collectors.Go(l.collect)
	}
	blocked := p.session.conn.NotifyBlocked(make(chan amqp.Blocking, 8))
	go func() {
		p.watch(blocked)
		close(p.watched)
	}()
	go func() {
		collectors.Wait() // each ends after its writer
		close(p.drained)
	}()
}

// watch follows the broker's alarms until the connection ends.
func (p *Publisher) watch(blocked <-chan amqp.Blocking) {
	for b := range blocked {
		p.session.wire.pause(b.Active)
		if b.Active {
			p.blocked.set(time.Now(), b.Reason)
			p.config.Logger.Warn("broker has blocked the connection, publishing waits", "reason", b.Reason)
			continue
		}
		since, _ := p.blocked.get()
		p.blocked.set(time.Time{}, "")
		p.config.Logger.Info("broker has unblocked the connection", "after", time.Since(since).Round(time.Millisecond))
	}
	p.blocked.set(time.Time{}, "")
}

// Publish implements publisher.Publisher.
func (p *Publisher) Publish(ctx context.Context, r *publisher.Record) error {
	l := p.lane(r)
	waited := false
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("publish: %w", context.Cause(ctx))
		}
		taken, err := l.offer(r)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		if taken {
			return nil
		}
		if !waited {
			waited = true
			p.noteWait(l)
		}
		select {
		case <-l.room:
		case <-ctx.Done():
		}
	}
}

// Inspect implements publisher.Inspector: it tells of everything that AMQP or
// the broker's max_message_size forbids, and asks nobody.
func (p *Publisher) Inspect(_ context.Context, r *publisher.Record) error {
	return checkRecord(r, p.session.limit)
}

// lane returns the lane of r's key. Records without one take turns.
func (p *Publisher) lane(r *publisher.Record) *lane {
	n := uint(len(p.lanes))
	if r.Key == nil {
		p.unkeyed++
		return p.lanes[p.unkeyed%n]
	}
	return p.lanes[uint(crc32.ChecksumIEEE(r.Key))%n]
}

// noteWait counts a Publish that has to wait because of few keys.
func (p *Publisher) noteWait(l *lane) {
	if !l.hot() {
		return
	}
	p.count.hotKeyWaits.Add(1)
	p.warnHot.Do(func() {
		p.config.Logger.Warn("few keys have most of the records: each waits for the confirm of the one before it, and all others wait with it",
			"ordering", p.config.Ordering)
	})
}

// Close implements publisher.Publisher. On its way is what was given to the
// connection. Of concurrent calls, the first whose context ends gives up for
// all.
func (p *Publisher) Close(ctx context.Context) error {
	p.shut.Do(p.stopSending)
	select {
	case <-p.drained:
	case <-ctx.Done():
		p.giveUp()
		<-p.drained
	}
	p.finish.Do(func() {
		p.session.close(ctx)
		<-p.watched
		close(p.finished)
	})
	<-p.finished
	if n := p.givenUp.Load(); n > 0 {
		return fmt.Errorf("%w: %d records given up", publisher.ErrClosed, n)
	}
	return nil
}

// stopSending gives up what has not begun to be sent: what waits in the lanes,
// then, when nothing more is written, what waits for the connection. Both end
// between two records, so that the connection can still be closed in good
// order.
func (p *Publisher) stopSending() {
	for _, l := range p.lanes {
		l.close()
	}
	p.writers.Wait()
	given := p.session.wire.drop()
	for _, l := range p.lanes {
		l.drop(given)
	}
}

// closedError is for a record that was never sent because of Close, or of an
// earlier failure.
func (p *Publisher) closedError() error {
	if err := p.failure(); err != nil {
		return abortedError(err)
	}
	return publisher.ErrClosed
}

// giveUp ends the connection under what has no outcome yet.
func (p *Publisher) giveUp() {
	select {
	case <-p.drained:
		return
	default:
	}
	p.gaveUp.Store(true)
	p.session.abort(publisher.ErrClosed)
}

// done reports the outcome of a record.
func (p *Publisher) done(r *publisher.Record, err error) {
	if errors.Is(err, publisher.ErrClosed) {
		p.givenUp.Add(1)
	}
	p.report(r, err)
}

// deathCause says why a channel ended.
func (p *Publisher) deathCause(e *amqp.Error) error {
	if p.gaveUp.Load() {
		return publisher.ErrClosed
	}
	return p.session.cause(e, p.config.Exchange)
}

// setFailure keeps the first failure.
func (p *Publisher) setFailure(err error) { p.first.CompareAndSwap(nil, &err) }

func (p *Publisher) failure() error {
	if err := p.first.Load(); err != nil {
		return *err
	}
	return nil
}

// fail stops all lanes: nothing more is sent. What is in flight is awaited.
func (p *Publisher) fail(err error) {
	p.setFailure(err)
	for _, l := range p.lanes {
		l.stop(abortedError(p.failure()))
	}
}
