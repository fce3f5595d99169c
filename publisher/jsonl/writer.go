package jsonl

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/outboxd/outboxd/publisher"
)

// run writes what is queued until the publisher is closed or broken.
func (p *Publisher) run() {
	defer close(p.idle)
	e := newEncoder()
	for {
		batch, cause := p.take()
		if len(batch) == 0 {
			return
		}
		if cause != nil {
			p.report(batch, func(int) error { return abortedError(cause) })
			continue
		}
		e.buf.Reset()
		n, poison := encode(e, batch)
		var err error
		if n > 0 {
			err = p.write(e.buf.Bytes())
		}
		p.settle(batch, n, err, poison)
	}
}

// take waits for records and marks them as being written. It returns none when
// there will be none, and a cause when they must not be written any more.
func (p *Publisher) take() (batch []*publisher.Record, cause error) {
	for {
		p.outcomes.Lock()
		p.mu.Lock()
		batch, cause = p.queue, p.broken
		ended := p.closed || cause != nil
		p.queue, p.bytes = nil, 0
		p.mu.Unlock()
		p.writing = batch
		p.outcomes.Unlock()
		if len(batch) > 0 {
			signal(p.room)
			return batch, cause
		}
		if ended {
			return nil, nil
		}
		<-p.wake
	}
}

// encode adds records until one cannot be, and returns how many and why.
func encode(e *encoder, batch []*publisher.Record) (int, error) {
	for i, r := range batch {
		if err := e.add(r); err != nil {
			return i, err
		}
	}
	return len(batch), nil
}

// errRefused is wrapped when not a byte was written.
var errRefused = errors.New("guard refuses to publish")

func (p *Publisher) write(lines []byte) error {
	if p.guard != nil {
		if err := p.guard(); err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
	}
	if _, err := p.file.Write(lines); err != nil {
		return fmt.Errorf("%w: %w", publisher.ErrUnknown, err)
	}
	if p.sync {
		if err := p.file.Sync(); err != nil {
			return fmt.Errorf("%w: %w", publisher.ErrUnknown, err)
		}
	}
	return nil
}

// settle reports the outcomes of a batch of which the first n were written
// with err, and the next was refused with poison.
func (p *Publisher) settle(batch []*publisher.Record, n int, err, poison error) {
	cause := cmp.Or(err, poison)
	p.mu.Lock()
	p.broken = cause
	p.mu.Unlock()
	if cause != nil {
		signal(p.room)
	}
	p.report(batch, func(i int) error {
		switch {
		case i < n && (err == nil || errors.Is(err, publisher.ErrUnknown)):
			return err
		case i == n && err == nil, i == 0:
			return cause
		}
		return abortedError(cause)
	})
}

// abortedError is for a record that was not written because of cause, which is
// not its own: the text tells, errors.As does not find it.
func abortedError(cause error) error {
	return fmt.Errorf("%w: %v", publisher.ErrAborted, cause)
}

// report reports what outcome says for each index of batch, unless Close has
// given the batch up.
func (p *Publisher) report(batch []*publisher.Record, outcome func(i int) error) {
	p.outcomes.Lock()
	defer p.outcomes.Unlock()
	if p.abandoned {
		return
	}
	for i, r := range batch {
		p.done(r, outcome(i))
	}
	p.writing = nil
}
