// Command shop is an online shop cut into contexts that tell each other what
// happened, and a demonstration of it: see README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/outboxd/outboxd/examples/shop/internal/demo"
)

// Exit codes.
const (
	failed      = 1 // it did not come to its end, or the verdict is not clean
	usage       = 2
	interrupted = 130
)

func main() {
	options, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(usage)
	}
	options.Out = os.Stdout
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends us at once
	err = demo.Run(ctx, options)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "shop: stopped; nothing is left behind")
		os.Exit(interrupted)
	default:
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(failed)
	}
}

const maxRate = 2000

// parse reads the flags. What is wrong with them it has said on w.
func parse(args []string, w io.Writer) (demo.Options, error) {
	var o demo.Options
	flags := flag.NewFlagSet("shop", flag.ContinueOnError)
	flags.SetOutput(w)
	brokers := flags.String("brokers", "embedded", "embedded: a fake Kafka in this process; real: Kafka and RabbitMQ")
	flags.DurationVar(&o.Duration, "duration", 20*time.Second, "how long customers come")
	flags.IntVar(&o.Rate, "rate", 50, "customers per second")
	flags.BoolVar(&o.Plain, "plain", false, "print lines, also on a terminal")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.Real = *brokers == "real"
	var problem string
	switch {
	case flags.NArg() > 0:
		problem = fmt.Sprintf("unknown argument %q", flags.Arg(0))
	case *brokers != "real" && *brokers != "embedded":
		problem = fmt.Sprintf("-brokers %q: want embedded or real", *brokers)
	case o.Duration < time.Second:
		problem = fmt.Sprintf("-duration %s: want 1s or more", o.Duration)
	case o.Rate < 1 || o.Rate > maxRate:
		problem = fmt.Sprintf("-rate %d: want 1 to %d", o.Rate, maxRate)
	default:
		return o, nil
	}
	fmt.Fprintln(w, "shop:", problem)
	return o, errors.New(problem)
}
