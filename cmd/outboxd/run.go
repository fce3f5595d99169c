package main

import (
	"context"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// memoryLimit is where the garbage collector begins to work harder, unless
// GOMEMLIMIT says otherwise. What the relay holds is bounded by the windows of
// the broker and by the records in flight, some 40 MB; without a limit the
// collector lets garbage grow to as much again, and a burst of large events to
// more. With it the process stays below 128 MB.
const memoryLimit = 96 << 20

// sameSignal is how close to the first a second signal is taken for the same
// request: timeout(1), and shells that signal a process group, send two at once.
const sameSignal = 500 * time.Millisecond

func newRun(env map[string]string, s streams) *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Publish events until stopped",
		Long: `Follows the replication slot and publishes every committed event. A service that
cannot be reached is tried for ever; a missing topic or exchange is waited for
and shown in /readyz. SIGTERM stops reading, waits for the acks that are on
their way, confirms them and exits with 0; a second signal exits at once.`,
		Example: `  outboxd run --database postgres://outboxd@db/shop --broker kafka://k1:9092,k2:9092
  outboxd run --database postgres://outboxd@db/shop --broker amqp://user:password@rabbit/vhost --exchange outbox
  outboxd run --database postgres://owner@localhost/shop --setup --broker jsonl:-`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.given = cmd.Flags().Changed
			return o.run(cmd.Context(), env, s)
		},
	}
	o.flags(cmd.Flags())
	return cmd
}

func (o *runOptions) run(ctx context.Context, env map[string]string, s streams) error {
	p, err := o.validate()
	if err != nil {
		return err
	}
	log, json, err := newLogger(s.err, o.logLevel, o.logFormat, s.terminal)
	if err != nil {
		return err
	}
	if env["GOMEMLIMIT"] == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The first signal asks for the drain. A little later the signals are given
	// back, so that another one ends the process as if nobody had asked to hear
	// of it.
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
	d, err := newDaemon(o, p, log)
	if err == nil {
		err = d.run(ctx)
	}
	if json {
		return logError(log, err)
	}
	return err
}
