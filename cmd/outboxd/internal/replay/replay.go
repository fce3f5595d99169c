package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
)

const (
	// openTimeout bounds the opening of a publisher.
	openTimeout = 30 * time.Second
	// progressInterval is how often a replay says how far it is.
	progressInterval = 5 * time.Second

	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second

	// maxPoison bounds the rows that are remembered because they cannot be
	// published.
	maxPoison = 10_000
)

// Lease keeps every relay of the pipeline away while rows are published. Its
// methods are those of cdc.Stream.
type Lease interface {
	Hold(ctx context.Context) error
	Guard() error
	Close(ctx context.Context) error
}

// Replay publishes rows of one table again. Set the fields before Run; those
// that are not marked may be left out.
type Replay struct {
	Database    string // required: a connection string or URL as pgx takes it
	Application string // what the server shows of us
	Table       string // required: schema.name
	Columns     relay.Columns
	Select      Selection
	// Lease takes the lease; nil: relays may publish meanwhile.
	Lease         func(ctx context.Context) (Lease, error)
	OpenPublisher func(context.Context, publisher.Done, publisher.Guard) (publisher.Publisher, error) // required
	Format        *record.Format                                                                      // required
	DrainTimeout  time.Duration                                                                       // required: how long a stop waits for acks
	// FailFast ends Run with the first fault instead of trying again.
	FailFast bool
	// Finish runs when everything is published, under the lease.
	Finish func(ctx context.Context, s Summary) error
	Logger *slog.Logger // required

	summary Summary
	poison  map[string]bool // rows that cannot be published, by name
	told    time.Time
}

// Summary is what a replay did.
type Summary struct {
	Published   uint64          // records acked, repeated ones included
	First, Last Place           // of the rows that are done
	Any         bool            // First and Last are places
	Poison      int             // rows that can never be published as they are
	IDs         map[string]bool // those of Selection.IDs that were found, as the server writes them
	// Resume is where another replay goes on; zero: at the beginning.
	Resume Resume
}

// Run publishes the selected rows and returns when all of them are acked. The
// summary counts also when there is an error: a *cdc.Error, what the broker
// said, or ctx's cause.
//
// What the world is to blame for is tried again, as outboxd run does. A row that
// can never be published is told of, counted and left out.
func (r *Replay) Run(ctx context.Context) (Summary, error) {
	r.poison = map[string]bool{}
	r.summary = Summary{IDs: map[string]bool{}, Resume: r.Select.Resume}
	for attempts := 0; ; {
		done := r.summary.Resume
		err := r.attempt(ctx)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return r.summary, err
		}
		fault := relay.Classify(err)
		if fault.Class == relay.Poison {
			continue // told of, and left out from now on
		}
		if r.FailFast || !retries(fault.Class) {
			return r.summary, err
		}
		if attempts++; r.summary.Resume != done {
			attempts = 1
		}
		r.Logger.Warn("the replay goes on in a moment", "code", fault.Code, "error", err.Error(), "fix", fault.Fix)
		if err := sleep(ctx, attempts); err != nil {
			return r.summary, err
		}
	}
}

// retries says whether another attempt may help. It does not where somebody else
// has the slot: a relay, which keeps it.
func retries(class relay.Class) bool {
	return class == relay.Retry || class == relay.RetryLate || class == relay.Held
}

// sleep pauses between half of a growing time and all of it.
func sleep(ctx context.Context, attempts int) error {
	d := min(firstPause<<min(attempts, 10), longestPause)
	select {
	case <-time.After(d/2 + rand.N(d/2)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// attempt publishes the rows that are still to be published. When it returns
// everything is closed and every outcome has come.
func (r *Replay) attempt(ctx context.Context) error {
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	guard, release, err := r.lease(working, cancel)
	if err != nil {
		return err
	}
	defer release()
	rows, err := r.open(working)
	if err != nil {
		return err
	}
	defer rows.close()
	w := newWindow()
	pub, err := r.openPublisher(working, w, guard)
	if err != nil {
		return err
	}
	err = r.publish(working, rows, w, pub)
	if working.Err() != nil {
		err = context.Cause(working)
	}
	r.close(ctx, pub)
	err = r.settle(w, rows.snapshot, err)
	if err != nil || r.Finish == nil {
		return err
	}
	return r.Finish(working, r.summary)
}

// lease takes the lease, if there is one to be taken, and cancels the attempt
// when it is lost. release gives it back.
func (r *Replay) lease(ctx context.Context, cancel context.CancelCauseFunc) (guard publisher.Guard, release func(), err error) {
	if r.Lease == nil {
		return nil, func() {}, nil
	}
	lease, err := r.Lease(ctx)
	if err != nil {
		return nil, nil, err
	}
	holding, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := lease.Hold(holding); holding.Err() == nil {
			cancel(err)
		}
	}()
	return lease.Guard, func() {
		stop()
		<-ended
		closing, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer done()
		if err := lease.Close(closing); err != nil {
			r.Logger.Debug("the slot's position was not confirmed", "error", err.Error())
		}
	}, nil
}

func (r *Replay) openPublisher(ctx context.Context, w *window, guard publisher.Guard) (publisher.Publisher, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	pub, err := r.OpenPublisher(ctx, w.done, guard)
	if err != nil {
		return nil, fmt.Errorf("open broker: %w", err)
	}
	return pub, nil
}

// close waits for the outcomes that are on their way.
func (r *Replay) close(ctx context.Context, pub publisher.Publisher) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.DrainTimeout)
	defer cancel()
	if err := pub.Close(closing); err != nil {
		r.Logger.Debug("not everything was acked", "error", err.Error())
	}
}

// publish hands over row after row and waits until all of them are acked.
func (r *Replay) publish(ctx context.Context, rows *rows, w *window, pub publisher.Publisher) error {
	var arena record.Arena
	for {
		ev, place, err := rows.next()
		if err != nil {
			return err
		}
		if ev == nil {
			break
		}
		if len(r.Select.IDs) > 0 {
			r.summary.IDs[place.ID] = true
		}
		if err := r.publishRow(ctx, rows, ev, place, w, pub, &arena); err != nil {
			return err
		}
		r.tell(w)
	}
	return w.drained(ctx)
}

func (r *Replay) publishRow(ctx context.Context, rows *rows, ev *record.Event, place Place, w *window, pub publisher.Publisher, arena *record.Arena) error {
	if r.poison[place.name()] {
		w.pass(place)
		return nil
	}
	var rec *publisher.Record
	err := rows.bad
	if err == nil {
		rec, err = r.Format.Record(ev, arena)
	}
	if err != nil {
		w.pass(place)
		return r.poisoned(Poison{place, err})
	}
	token, err := w.take(ctx, place, rec.Size())
	if err != nil {
		return err
	}
	rec.Token = token
	if err := pub.Publish(ctx, rec); err != nil {
		w.untake()
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// poisoned tells of a row that cannot be published, once.
func (r *Replay) poisoned(p Poison) error {
	if r.poison[p.name()] {
		return nil
	}
	if len(r.poison) == maxPoison {
		return &cdc.Error{Code: cdc.CodeConfig, Detail: fmt.Sprintf("%d rows cannot be published, the last is event %s: %v", maxPoison, p.ID, p.Err),
			Fix: "look at the options rather than at the rows"}
	}
	r.poison[p.name()] = true
	r.summary.Poison++
	r.Logger.Error("a row cannot be published and is left out", "id", p.ID, "seq", p.Seq, "error", p.Err.Error())
	return nil
}

// name tells rows apart.
func (p Place) name() string {
	if p.Seq != 0 {
		return fmt.Sprint(p.Seq)
	}
	return "id " + p.ID
}

// settle takes over what an attempt came to, and returns why it ended: nil when
// everything is published. err is what publish returned.
func (r *Replay) settle(w *window, snapshot string, err error) error {
	s := &r.summary
	s.Published += w.acked
	if w.any {
		if !s.Any {
			s.First = w.start
		}
		s.Any, s.Last = true, w.prefix
		if snapshot != "" {
			s.Resume = s.Resume.after(w.prefix.Seq, snapshot)
		}
	}
	for _, p := range w.poison {
		if err := r.poisoned(p); err != nil {
			return err
		}
	}
	switch {
	case w.cause != nil:
		return w.cause
	case w.behind != nil && err == nil, errors.Is(err, errStopped):
		return w.behind
	}
	return err
}

// tell says now and then how far the replay is.
func (r *Replay) tell(w *window) {
	if time.Since(r.told) < progressInterval {
		return
	}
	r.told = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.any {
		r.Logger.Info("replaying", "published", r.summary.Published+w.acked, "seq", w.prefix.Seq, "created_at", w.prefix.Time)
	}
}
