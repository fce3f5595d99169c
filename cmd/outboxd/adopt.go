package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// adoptOptions are those of outboxd adopt.
type adoptOptions struct {
	pipelineOptions
	yes         bool
	published   string
	slotTimeout time.Duration
}

func (o *adoptOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.StringVar(&o.published, "published", "", "after a restore that nothing shows: ce_sequence of the last record that was published")
	f.DurationVar(&o.slotTimeout, "slot-timeout", setup.DefaultSlotTimeout, "how long to wait for open transactions, which hold up a new slot")
}

func newAdoptOptions() *adoptOptions { return &adoptOptions{} }

func newAdopt(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Accept a gap: go on from where the slot stands, or with a new slot",
		Long: `Shows why the relay of a pipeline refuses to go on by itself: a slot that is gone,
was invalidated, recreated or moved, another cluster, a publication that for a
while did not cover the table, a database that was restored. Then asks for the
pipeline's name, makes a new slot in place of one that is of no use, and makes
the slot's position the pipeline's, in a new epoch. What was missed is noted:
outboxd replay --gap publishes it from the table, before the relay is started.

A database that was restored to an earlier state, slot included, cannot know it.
A relay that lives through it stops and notes it; if none did, --published shows
it, with the position of the last record that a broker has.

Slot, publication and table that are not given are those that the pipeline was
set up with. With --config of several pipelines --pipeline says which.`,
		Example: `  outboxd adopt --database postgres://outboxd@db/shop
  outboxd adopt --database postgres://outboxd@db/shop --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := loadOne(cmd, in, newAdoptOptions)
			if err != nil {
				return err
			}
			published, err := o.position()
			return o.mend(cmd.Context(), err, func(ctx context.Context, id setup.Identity) error { return o.adopt(ctx, s, id, published) })
		},
	}
	newAdoptOptions().flags(cmd.Flags())
	return cmd
}

// position is that of --published, zero when it is not given.
func (o *adoptOptions) position() (p cdc.Position, err error) {
	if o.published == "" {
		return p, nil
	}
	if p, err = cdc.ParsePosition(o.published); err != nil {
		return p, fmt.Errorf("--published: %w", err)
	}
	return p, nil
}

func (o *adoptOptions) adopt(ctx context.Context, s streams, id setup.Identity, published cdc.Position) error {
	cfg := o.readSide(id)
	gap, err := cdc.FindGap(ctx, cfg, published)
	if err != nil {
		return err
	}
	if len(gap.Findings) == 0 {
		fmt.Fprintf(s.out, "pipeline %s: no gap; outboxd run goes on from %s\n", id.Pipeline, gap.Acked)
		if gap.Floor != "" {
			fmt.Fprintf(s.out, "pending    a gap that was accepted before has not been replayed\n")
			o.next(s, id, gap)
		}
		return nil
	}
	tell(s, id, gap)
	if !o.yes {
		if err := setup.Confirm(s.in, s.out, id.Pipeline, "go on behind the gap"); err != nil {
			return err
		}
	}
	if gap.NewSlot {
		options := setup.Options{Database: o.database, Pipeline: id.Pipeline, Slot: id.Slot, Publication: id.Publication, Table: id.Table(), SlotTimeout: o.slotTimeout}
		if err := setup.RemakeSlot(ctx, options, s.out); err != nil {
			return err
		}
	}
	at, err := gap.Accept(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "accepted   goes on from %s, epoch %d\n", at, gap.Epoch)
	o.next(s, id, gap)
	return nil
}

// tell shows the gap.
func tell(s streams, id setup.Identity, gap cdc.Gap) {
	for _, finding := range gap.Findings {
		fmt.Fprintf(s.out, "found      %s\n", finding)
	}
	fmt.Fprintf(s.out, "published  everything before %s\n", gap.Acked)
	switch {
	case gap.Complete:
		fmt.Fprintf(s.out, "missing    nothing: the slot has what was not published\n")
	case gap.Rows >= 0:
		fmt.Fprintf(s.out, "missing    at most %d rows: SELECT * FROM %s WHERE xid >= '%s' ORDER BY seq\n", gap.Rows, id.Table(), gap.Floor)
	default:
		fmt.Fprintf(s.out, "missing    rows of %s that were written since then; it has no column xid by which to tell\n", id.Table())
	}
	if gap.NewSlot {
		fmt.Fprintf(s.out, "goes on    with a new slot %s, epoch %d\n", id.Slot, gap.Epoch)
	} else {
		fmt.Fprintf(s.out, "goes on    from %s, epoch %d\n", gap.Slot, gap.Epoch)
	}
}

// next prints what is to be done about the gap, in commands that can be run as
// they stand but for the flags of the broker.
func (o *pipelineOptions) next(s streams, id setup.Identity, gap cdc.Gap) {
	if gap.Complete && gap.Floor == "" {
		fmt.Fprintf(s.out, "next       start the relay, as before\n")
		return
	}
	command := func(name string) string { return o.complete("outboxd "+name+" --pipeline "+id.Pipeline, id) }
	if gap.Rows >= 0 {
		fmt.Fprintf(s.out, "next       %s --gap, with the flags of outboxd run\n", command("replay"))
	} else {
		fmt.Fprintf(s.out, "next       %s --since TIME, with the flags of outboxd run; it may be started before\n", command("replay"))
	}
	fmt.Fprintf(s.out, "           then start the relay, as before\n")
	fmt.Fprintf(s.out, "           a gap that needs no replay, or no other: %s --gap --reason TEXT\n", command("skip"))
}

// mend runs a command for a pipeline whose relay has stopped, under the names
// that it was set up with. invalid is what is wrong with the other options.
func (o *pipelineOptions) mend(ctx context.Context, invalid error, command func(context.Context, setup.Identity) error) error {
	id, err := o.names()
	if err = errors.Join(err, invalid); err != nil {
		return &configError{err}
	}
	if id, err = setup.Recall(ctx, o.database, id, o.given); err == nil {
		err = command(ctx, id)
	}
	return o.mended(stopFirst(err), id)
}

// readSide describes the pipeline to package cdc.
func (o *pipelineOptions) readSide(id setup.Identity) cdc.Config {
	return cdc.Config{Database: o.database, Pipeline: id.Pipeline, Slot: id.Slot, Publication: id.Publication, Table: id.Table()}
}

// stopFirst adds to an error about a slot in use what to do about it: here,
// waiting is not all.
func stopFirst(err error) error {
	var active *cdc.Error
	if errors.As(err, &active) && active.Code == cdc.CodeSlotActive {
		active.Fix = "stop the relay first"
	}
	return err
}
