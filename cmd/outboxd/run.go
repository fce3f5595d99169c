package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
)

// Where the garbage collector begins to work harder, unless GOMEMLIMIT says
// otherwise. What a relay holds is bounded by the windows of the broker and by
// the records in flight, some 40 MB; without a limit the collector lets garbage
// grow to as much again, and a burst of large events to more. With it a process
// of one pipeline stays below 128 MB.
const (
	memoryLimit    = 56 << 20
	memoryPipeline = 40 << 20 // more, for each
)

// sameSignal is how close to the first a second signal is taken for the same
// request: timeout(1), and shells that signal a process group, send two at once.
const sameSignal = 500 * time.Millisecond

func newRun(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Publish events until stopped",
		Long: `Follows the replication slot and publishes every committed event. A service that
cannot be reached is tried for ever; a missing topic or exchange is waited for
and shown in /readyz. SIGTERM stops reading, waits for the acks that are on
their way, confirms them and exits with 0; a second signal exits at once.

With --config it runs all pipelines of the file, or the one of --pipeline. They
share the process and nothing else: what one waits for, or stops on, does not
hold the others. /readyz fails until all of them are well.

Slot, publication and table that are not given are those that the pipeline was
set up with.`,
		Example: `  outboxd run --database postgres://outboxd@db/shop --broker kafka://k1:9092,k2:9092
  outboxd run --database postgres://outboxd@db/shop --broker amqp://user:password@rabbit/vhost --exchange outbox
  outboxd run --database postgres://owner@localhost/shop --setup --broker jsonl:-
  outboxd run --config outboxd.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := load(cmd, in, newRunOptions)
			if err != nil {
				return err
			}
			return runPipelines(cmd.Context(), list, in, s)
		},
	}
	newRunOptions().flags(cmd.Flags())
	return cmd
}

func newRunOptions() *runOptions { return &runOptions{} }

// runPipelines relays the pipelines of the list. What they share all have alike.
func runPipelines(ctx context.Context, list []*runOptions, in inputs, s streams) error {
	pipelines, err := validate(list)
	if err != nil {
		return &configError{err}
	}
	shared := &list[0].processOptions
	log, json, err := newLogger(s.err, shared.logLevel, shared.logFormat, s.terminal)
	if err != nil {
		return err
	}
	if in.env["GOMEMLIMIT"] == "" {
		debug.SetMemoryLimit(int64(memoryLimit + len(list)*memoryPipeline))
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The first signal asks for the drain. A little later the signals are given
	// back, so that another one ends the process as if nobody had asked to hear
	// of it.
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
	p := newProcess(shared.metrics, log, in.secrets)
	for i, o := range list {
		p.add(o, pipelines[i])
	}
	err = p.run(ctx)
	if json {
		return logError(log, err)
	}
	return err
}

// validate returns what the options of each pipeline come to, and everything
// that is wrong with any of them.
func validate(list []*runOptions) ([]*pipeline, error) {
	problems := []error{list[0].processOptions.validate()}
	pipelines := make([]*pipeline, len(list))
	for i, o := range list {
		p, err := o.validate()
		if err == nil {
			err = o.apart(p, list[:i], pipelines[:i])
		}
		problems = append(problems, o.placed(err))
		pipelines[i] = p
	}
	return pipelines, errors.Join(problems...)
}

// apart checks that no earlier pipeline has the slot of p. Slots are the
// server's, whatever the database.
func (o *runOptions) apart(p *pipeline, others []*runOptions, pipelines []*pipeline) error {
	server := func(o *runOptions) string {
		config, err := pgx.ParseConfig(o.database)
		if err != nil {
			return o.database // a problem already
		}
		return fmt.Sprintf("%s:%d", config.Host, config.Port)
	}
	for i, other := range others {
		if pipelines[i].Slot == p.Slot && server(other) == server(o) {
			return fmt.Errorf("slot %s is that of pipeline %s already (%s); each needs its own", p.Slot, other.pipeline, other.where)
		}
	}
	return nil
}
