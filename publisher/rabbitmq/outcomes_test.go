package rabbitmq_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// outcomes collects what a publisher reports, by the records' tokens.
type outcomes struct {
	t testing.TB

	mu      sync.Mutex
	errs    map[uint64]error
	changed chan struct{} // gets a value after each outcome, if it is free
}

func newOutcomes(t testing.TB) *outcomes {
	return &outcomes{t: t, errs: make(map[uint64]error), changed: make(chan struct{}, 1)}
}

func (o *outcomes) done(r *publisher.Record, err error) {
	o.mu.Lock()
	if _, twice := o.errs[r.Token]; twice {
		o.t.Errorf("record %d has two outcomes", r.Token)
	}
	o.errs[r.Token] = err
	o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *outcomes) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.errs)
}

// wait waits for n outcomes. The test's own timeout bounds it.
func (o *outcomes) wait(n int) {
	for o.len() < n {
		<-o.changed
	}
}

// of returns the class of a record's outcome, "none" when there is none.
func (o *outcomes) of(token uint64) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	err, ok := o.errs[token]
	if !ok {
		return "none"
	}
	return classOf(err)
}

func (o *outcomes) err(token uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.errs[token]
}

// count counts outcomes by class.
func (o *outcomes) count() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := make(map[string]int)
	for _, err := range o.errs {
		n[classOf(err)]++
	}
	return n
}

// shut closes p with a context of that timeout, and expects not to wait much
// longer.
func shut(t testing.TB, p *rabbitmq.Publisher, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	start := time.Now()
	err := p.Close(ctx)
	if took := time.Since(start); took > timeout+5*time.Second {
		t.Errorf("close took %v with a context of %v", took, timeout)
	}
	return err
}
