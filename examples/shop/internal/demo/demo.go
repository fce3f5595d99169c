// Package demo lets the shop run for a while beside a real outboxd, kills the
// relay in the middle, and judges what came of it.
package demo

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Options say what to show.
type Options struct {
	// Real means real Kafka and RabbitMQ; without it Kafka is a fake in this
	// process, and there is no RabbitMQ.
	Real bool
	// Duration is how long customers come, Rate how many in a second.
	Duration time.Duration
	Rate     int
	// Plain means lines where Out is a terminal, too.
	Plain bool
	Out   io.Writer
}

// ErrNotClean means that the demo came to its end, and events were lost,
// invented, out of order or changed, or do not fit the tables.
var ErrNotClean = errors.New("the verdict above is not clean")

// demo is what is up while it runs.
type demo struct {
	Options
	screen   *screen
	stations []station
	services *services
	events   *pgxpool.Pool // reads the event table, as the superuser
	ledger   *ledger
	relay    *relay
	buyers   *buyers
	crew     *crew
	closers  []func() // run last to first, when the crew is home
}

// Run is the demo from the first service to the verdict. When it returns,
// nothing that it started is left, whatever its error. It takes Duration and
// some seconds, and on a machine's first time the downloads.
func Run(ctx context.Context, o Options) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	d := &demo{Options: o, screen: newScreen(o.Out, o.Plain), stations: stations(o.Real), crew: &crew{fail: fail}}
	d.ledger = newLedger(d.stations)
	err := d.play(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause // what came first; all else follows from it
	}
	fail(err)
	d.crew.wait()
	if d.relay != nil {
		d.relay.kill() // unless it was stopped in order
	}
	for _, closer := range slices.Backward(d.closers) {
		closer()
	}
	return err
}

// play runs the acts one after the other.
func (d *demo) play(ctx context.Context) error {
	if err := d.raise(ctx); err != nil {
		return err
	}
	if err := d.watched(ctx, d.trade, d.settle); err != nil {
		return err
	}
	return d.judge(ctx)
}

// raise starts the services, prepares the database as an administrator would,
// and lets the contexts and the relay begin.
func (d *demo) raise(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "outboxd-demo-")
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() { os.RemoveAll(dir) })
	d.screen.say("building outboxd")
	binary, err := build(ctx, dir)
	if err != nil {
		return err
	}
	d.services, err = startServices(ctx, d.Real, d.screen.say)
	d.closers = append(d.closers, func() {
		if err := d.services.Close(); err != nil {
			d.screen.say("stop the services: %v", err)
		}
	})
	if err != nil {
		return err
	}
	if err := d.services.furnish(ctx); err != nil {
		return err
	}
	if d.events, err = pgxpool.New(ctx, d.services.admin); err != nil {
		return err
	}
	d.closers = append(d.closers, d.events.Close)
	outboxd, err := d.services.invocation(dir)
	if err != nil {
		return err
	}
	d.screen.say("outboxd setup %s", outboxd.title)
	if err := outboxd.setUp(ctx, binary); err != nil {
		return err
	}
	d.relay = newRelay(outboxd, binary, d.crew.fail)
	address, err := d.open(ctx)
	if err != nil {
		return err
	}
	d.buyers = newBuyers(address)
	d.screen.say("the shop is open: curl %s/orders/1, %[1]s/stock/tea, %[1]s/audit/1", address)
	return d.startRelay()
}

func (d *demo) startRelay() error {
	d.screen.say("outboxd run %s", d.relay.title)
	return d.relay.start()
}

const (
	// deadTime is how long the relay stays dead: long enough to see that the
	// shop does not mind.
	deadTime = 2 * time.Second
	// settleTime is how long after the last order everything has to be at rest.
	settleTime = 30 * time.Second
	// drainTime is how long a relay may take to end: outboxd itself gives up
	// after 25 s.
	drainTime = 30 * time.Second
)

// trade lets customers come, and kills the relay when half of them were here.
func (d *demo) trade(ctx context.Context) error {
	closing, cancel := context.WithTimeout(ctx, d.Duration)
	defer cancel()
	gone := make(chan error, 1)
	go func() { gone <- d.buyers.run(closing, d.Rate) }()

	err := d.accident(ctx)
	return errors.Join(err, <-gone)
}

// accident is kill -9 of the relay, in the middle of everything.
func (d *demo) accident(ctx context.Context) error {
	if err := pause(ctx, d.Duration/2); err != nil {
		return err
	}
	d.screen.say("kill -9: outboxd run %s", d.relay.title)
	d.relay.kill()
	if err := pause(ctx, min(deadTime, d.Duration/4)); err != nil {
		return err
	}
	return d.startRelay()
}

// settle waits until every context has consumed all that was written for it,
// stops the relay in order, and waits until nothing more comes: a duplicate or
// an invention would come late.
func (d *demo) settle(ctx context.Context) error {
	d.screen.say("the shop is closed; waiting for the last events")
	for deadline := time.Now().Add(settleTime); time.Now().Before(deadline); {
		rest, err := d.atRest(ctx)
		if err != nil {
			return err
		}
		if rest {
			break
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
	draining, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	d.screen.say("SIGTERM: outboxd run %s", d.relay.title)
	if err := d.relay.stop(draining); err != nil {
		return err
	}
	for before := -1; before != d.ledger.total(); {
		before = d.ledger.total()
		if err := pause(ctx, quiet); err != nil {
			return err
		}
	}
	return nil
}

const (
	look  = 100 * time.Millisecond
	quiet = 500 * time.Millisecond
)

// atRest reports whether every context has consumed what was written for it. As
// long as that is not so, reservation may write more.
func (d *demo) atRest(ctx context.Context) (bool, error) {
	written, err := count(ctx, d.events)
	if err != nil {
		return false, err
	}
	for _, s := range d.stations {
		due := 0
		for _, kind := range s.consumes {
			due += written[kind]
		}
		if s.absent == "" && d.ledger.distinct(s.name) < due {
			return false, nil
		}
	}
	return true, nil
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// judge prints the verdict and what to do with the evening.
func (d *demo) judge(ctx context.Context) error {
	events, err := committed(ctx, d.events)
	if err != nil {
		return err
	}
	b, err := readBooks(ctx, d.events)
	if err != nil {
		return err
	}
	var v verdict
	for _, s := range d.stations {
		if s.absent == "" {
			v = append(v, part{s, s.judge(events, d.ledger.deliveries(s.name))})
		}
	}
	d.screen.say("\n%s%s\n\nDuplicates are what the relay had published and not yet confirmed when it was killed.\n"+
		"%d orders were refused: each had written its event, and was rolled back with it.", v, b, d.buyers.refused.Load())
	d.screen.say("\nWhat to try next:\n%s", d.next())
	if !v.clean() || !b.clean() {
		return ErrNotClean
	}
	return nil
}

// next says what is left to see.
func (d *demo) next() string {
	brokers := "  make demo BROKERS=real                          real Kafka and RabbitMQ; notification joins\n"
	if d.Real {
		brokers = "  make demo                                       without Java and RabbitMQ\n"
	}
	return brokers +
		"  make demo DEMOFLAGS='-duration 2m -rate 200'    longer and busier\n" +
		"  less examples/shop/README.md                    the code of this shop, context by context\n" +
		"  make build && bin/outboxd --help                your own database"
}
