package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// adoptOptions are those of outboxd adopt.
type adoptOptions struct {
	pipelineOptions
	yes bool
}

func (o *adoptOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	f.BoolVar(&o.yes, "yes", false, "do not ask")
}

func newAdoptOptions() *adoptOptions { return &adoptOptions{} }

func newAdopt(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Accept a gap: go on from where the slot stands now",
		Long: `Shows why the relay of a pipeline refuses to go on by itself: another cluster, a
slot that somebody recreated or moved, a publication that for a while did not
cover the table, a database that was restored. Then asks for the pipeline's name
and makes the slot's position the pipeline's, in a new epoch. Events between the
two positions are not published by this; look for them in the table first.

Slot, publication and table that are not given are those that the pipeline was
set up with. With --config of several pipelines --pipeline says which.`,
		Example: `  outboxd adopt --database postgres://outboxd@db/shop
  outboxd adopt --database postgres://outboxd@db/shop --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := loadOne(cmd, in, newAdoptOptions)
			if err != nil {
				return err
			}
			id, err := o.names()
			if err != nil {
				return &configError{err}
			}
			if id, err = setup.Recall(cmd.Context(), o.database, id, o.given); err == nil {
				err = o.adopt(cmd.Context(), s, id)
			}
			return o.mended(err, id)
		},
	}
	newAdoptOptions().flags(cmd.Flags())
	return cmd
}

func (o *adoptOptions) adopt(ctx context.Context, s streams, id setup.Identity) error {
	cfg := cdc.Config{Database: o.database, Pipeline: id.Pipeline, Slot: id.Slot, Publication: id.Publication, Table: id.Table()}
	gap, err := cdc.FindGap(ctx, cfg)
	var active *cdc.Error
	if errors.As(err, &active) && active.Code == cdc.CodeSlotActive {
		active.Fix = "stop the relay first"
	}
	if err != nil {
		return err
	}
	if len(gap.Findings) == 0 {
		fmt.Fprintf(s.out, "pipeline %s: no gap; outboxd run goes on from %s\n", id.Pipeline, gap.Acked)
		return nil
	}
	for _, finding := range gap.Findings {
		fmt.Fprintf(s.out, "found      %s\n", finding)
	}
	fmt.Fprintf(s.out, "published  everything before %s\n", gap.Acked)
	fmt.Fprintf(s.out, "look at    SELECT * FROM %s WHERE xid >= '%s' ORDER BY seq; -- what may not be published, in a table that setup made\n", id.Table(), gap.Floor)
	fmt.Fprintf(s.out, "goes on    from %s, epoch %d\n", gap.Slot, gap.Epoch)
	if !o.yes {
		fmt.Fprintf(s.out, "type the pipeline's name (%s) to accept that what lies between is not published: ", id.Pipeline)
		answer, _ := bufio.NewReader(s.in).ReadString('\n')
		if answer = strings.TrimSpace(answer); answer != id.Pipeline {
			return &cdc.Error{Code: setup.CodeUnconfirmed, Detail: fmt.Sprintf("%q is not the pipeline's name: nothing was changed", answer),
				Fix: fmt.Sprintf("type %s, or give --yes", id.Pipeline)}
		}
	}
	if err := gap.Accept(ctx, cfg); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "accepted   start the relay with outboxd run\n")
	return nil
}
