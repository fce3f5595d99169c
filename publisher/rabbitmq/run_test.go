//go:build !embedded

package rabbitmq_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// run publishes records as the relay does: when a publisher breaks it closes
// it, opens another and goes on with the first record that has no ack, leaving
// out those that have one.
type run struct {
	t       testing.TB
	config  rabbitmq.Config
	records []*publisher.Record

	mu       sync.Mutex
	acked    []bool
	left     int            // not acked
	open     int            // handed over and without an outcome
	classes  map[string]int // of all outcomes and refusals that were not acks
	sessions int
	// disturbed is closed when the fault is done. Until then the second half of
	// the records goes slowly, so that the fault comes in the middle of them.
	disturbed chan struct{}
}

// newRun makes n records, of keys in turn.
func newRun(t testing.TB, config rabbitmq.Config, n, keys int) *run {
	r := &run{t: t, config: config, acked: make([]bool, n), left: n, classes: make(map[string]int), disturbed: make(chan struct{})}
	for i := range n {
		key := fmt.Sprintf("key%d", i%keys)
		r.records = append(r.records, &publisher.Record{
			Topic: routedKey, Key: []byte(key), ID: fmt.Sprintf("%s/%d", key, i/keys), Token: uint64(i), Value: make([]byte, 200),
		})
	}
	return r
}

func (r *run) done(rec *publisher.Record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	if err != nil {
		r.classes[classOf(err)]++
		return
	}
	if r.acked[rec.Token] {
		r.t.Errorf("record %s was acked twice", rec.ID)
	}
	r.acked[rec.Token] = true
	r.left--
}

func (r *run) remaining() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

// handedOver adds n records that were, and returns how many have no outcome.
func (r *run) handedOver(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open += n
	return r.open
}

// all publishes until everything is acked.
func (r *run) all() {
	r.t.Helper()
	close(r.disturbed)
	r.allAcked()
}

func (r *run) allAcked() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for r.remaining() > 0 {
		if err := r.session(ctx); ctx.Err() != nil {
			r.t.Fatalf("%d of %d records without an ack after 3 minutes (%v): %v", r.remaining(), len(r.records), r.classes, err)
		}
	}
}

// session is the life of one publisher.
func (r *run) session(ctx context.Context) error {
	p, err := rabbitmq.Open(ctx, r.config, r.done, nil)
	if err != nil {
		r.mu.Lock()
		r.classes[classOf(err)]++
		r.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
		return err
	}
	r.sessions++
	for i, rec := range r.records {
		r.mu.Lock()
		skip := r.acked[i]
		r.mu.Unlock()
		if skip {
			continue
		}
		if i > len(r.records)/2 {
			select {
			case <-r.disturbed:
			case <-time.After(time.Millisecond):
			}
		}
		if err = p.Publish(ctx, rec); err != nil {
			break
		}
		r.handedOver(1)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.handedOver(0) > 0 && ctx.Err() == nil {
		<-tick.C
	}
	closing, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = p.Close(closing)
	return err
}

// judge compares with what arrived: nothing lost, first deliveries of a key in
// order, duplicates only of what was in flight when a session ended.
func (r *run) judge(arrived []publisher.Record) {
	r.t.Helper()
	next := make(map[string]int)
	duplicates := 0
	for _, a := range arrived {
		key, number, _ := strings.Cut(a.ID, "/")
		n, err := strconv.Atoi(number)
		switch {
		case err != nil:
			r.t.Fatalf("message id %q", a.ID)
		case n < next[key]:
			duplicates++
		case n > next[key]:
			r.t.Fatalf("%s arrived before %s/%d", a.ID, key, next[key])
		default:
			next[key]++
		}
	}
	distinct := len(arrived) - duplicates
	if distinct != len(r.records) {
		r.t.Errorf("%d of %d records arrived", distinct, len(r.records))
	}
	bound := (r.sessions - 1) * rabbitmq.DefaultChannels * rabbitmq.DefaultWindow
	if duplicates > bound {
		r.t.Errorf("%d duplicates in %d sessions, want at most %d", duplicates, r.sessions, bound)
	}
	r.t.Logf("%d records, %d sessions, %d duplicates, failures %v", len(r.records), r.sessions, duplicates, r.classes)
}

// whileRunning calls disturb when some records are acked and many are not, and
// returns when everything is.
func (r *run) whileRunning(disturb func()) {
	r.t.Helper()
	go func() {
		defer close(r.disturbed)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for r.remaining() > len(r.records)*4/5 {
			<-tick.C
		}
		disturb()
	}()
	r.allAcked()
	<-r.disturbed
}
