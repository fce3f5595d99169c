package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// skipOptions are those of outboxd skip.
type skipOptions struct {
	pipelineOptions
	event, to, reason string
	gap, yes          bool
}

func (o *skipOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	f.StringVar(&o.event, "event", "", "position of the one event to leave out, as epoch.commitLSN.ordinal; the relay names it when it stops in front of it")
	f.StringVar(&o.to, "to", "", "LSN: leave out every event of transactions that commit before it and are not published")
	f.BoolVar(&o.gap, "gap", false, "give up the gap that outboxd adopt noted, without a replay")
	f.StringVar(&o.reason, "reason", "", "why; kept in outboxd.audit")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
}

func newSkipOptions() *skipOptions { return &skipOptions{} }

func newSkip(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "skip",
		Short: "Leave events out that the pipeline cannot get past",
		Long: `Moves a stopped pipeline past what stops it: exactly one event (--event), or
everything up to a position (--to). Or gives up a gap that is to be replayed
(--gap). What is skipped is never published by outboxd run; rows stay in the
table. Asks for the pipeline's name, and keeps who, when, what and why in the
table outboxd.audit.

A position is that of one epoch: if the server fails over before the relay has
passed it, nothing is skipped, and the relay names the event again.`,
		Example: `  outboxd skip --database postgres://outboxd@db/shop --event 0001.00000000016b3748.00000002 --reason 'payload of 3 MB, see #4711'
  outboxd skip --database postgres://outboxd@db/shop --to 0/16B3749 --reason 'cannot be decoded'
  outboxd skip --database postgres://outboxd@db/shop --gap --reason 'consumers were reloaded from the tables'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := loadOne(cmd, in, newSkipOptions)
			if err != nil {
				return err
			}
			return o.mend(cmd.Context(), o.validate(), func(ctx context.Context, id setup.Identity) error { return o.skip(ctx, s, id) })
		},
	}
	newSkipOptions().flags(cmd.Flags())
	return cmd
}

func (o *skipOptions) validate() error {
	var problems []error
	if chosen(o.event != "", o.to != "", o.gap) != 1 {
		problems = append(problems, errors.New("give one of --event, --to and --gap"))
	}
	if o.event != "" {
		_, err := cdc.ParsePosition(o.event)
		problems = append(problems, err)
	}
	if o.to != "" {
		_, err := cdc.ParseLSN(o.to)
		problems = append(problems, err)
	}
	if strings.TrimSpace(o.reason) == "" {
		problems = append(problems, errors.New("--reason is missing: say why, for who asks later"))
	}
	return errors.Join(problems...)
}

// chosen counts the options that are given.
func chosen(given ...bool) (n int) {
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}

func (o *skipOptions) skip(ctx context.Context, s streams, id setup.Identity) error {
	cfg := o.readSide(id)
	if o.gap {
		return o.giveUp(ctx, s, cfg)
	}
	found, err := o.find(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "published  everything before %s\n", found.From)
	if o.event != "" {
		fmt.Fprintf(s.out, "skips      the event at %s, and no other\n", found.To)
	} else {
		fmt.Fprintf(s.out, "skips      every event of the transactions that commit from there on and before %s%s\n", found.To, atMost(found.Rows))
	}
	if !o.yes {
		if err := setup.Confirm(s.in, s.out, id.Pipeline, "skip that for ever"); err != nil {
			return err
		}
	}
	if err := found.Accept(ctx, cfg, o.reason); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "skipped    from the next outboxd run on\n")
	return nil
}

func (o *skipOptions) find(ctx context.Context, cfg cdc.Config) (cdc.Skip, error) {
	if o.event != "" {
		p, err := cdc.ParsePosition(o.event)
		if err != nil {
			return cdc.Skip{}, err
		}
		return cdc.FindSkipEvent(ctx, cfg, p)
	}
	to, err := cdc.ParseLSN(o.to)
	if err != nil {
		return cdc.Skip{}, err
	}
	return cdc.FindSkip(ctx, cfg, to)
}

// giveUp closes the pending gap without a replay.
func (o *skipOptions) giveUp(ctx context.Context, s streams, cfg cdc.Config) error {
	floor, rows, err := cdc.PendingGap(ctx, cfg)
	if err != nil {
		return err
	}
	if floor == "" {
		fmt.Fprintf(s.out, "pipeline %s: no gap is pending\n", cfg.Pipeline)
		return nil
	}
	lost, closed := fmt.Sprintf("rows with xid >= %s of %s%s", floor, cfg.Table, atMost(rows)), "the gap; its partitions can be emptied again"
	if rows < 0 { // an existing table, which has no xid, and no ring either
		lost, closed = "what may be missing of "+cfg.Table, "the gap"
	}
	fmt.Fprintf(s.out, "gives up   the replay of %s\n", lost)
	if !o.yes {
		if err := setup.Confirm(s.in, s.out, cfg.Pipeline, "give that up"); err != nil {
			return err
		}
	}
	if err := cdc.CloseGap(ctx, cfg, floor, "skip", "", o.reason); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "closed     %s\n", closed)
	return nil
}

// offerSkip adds to the error of a relay that stopped in front of an event how
// to leave that event out.
func offerSkip(err error, pipeline string) error {
	var stop *relay.StopError
	var event *relay.PoisonEvent
	if errors.As(err, &stop) && errors.As(err, &event) {
		stop.Fault.Fix += fmt.Sprintf("; or leave this one event out for ever: outboxd skip --pipeline %s --event %s --reason TEXT", pipeline, event.Position)
	}
	return err
}

// atMost tells how many rows something can concern, if that is known.
func atMost(rows int64) string {
	if rows < 0 {
		return ""
	}
	return fmt.Sprintf(": at most %d rows", rows)
}
