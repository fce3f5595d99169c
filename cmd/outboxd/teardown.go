package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// teardownOptions are those of outboxd teardown.
type teardownOptions struct {
	pipelineOptions
	dropTables, yes bool
}

func (o *teardownOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	f.BoolVar(&o.dropTables, "drop-tables", false, "also drop the event table and all rows in it")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
}

func newTeardownOptions() *teardownOptions { return &teardownOptions{} }

func newTeardown(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "teardown",
		Short: "Drop the replication slot and the publication of a pipeline",
		Long: `Drops the pipeline's slot, then its publication; the event table and its rows
only with --drop-tables. It asks for the pipeline's name first. Events that were
not relayed yet will not be, unless they are still in the table.

With --config of several pipelines --pipeline says which.`,
		Example: `  outboxd teardown --database postgres://owner@db/shop
  outboxd teardown --database postgres://owner@db/shop --drop-tables --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := loadOne(cmd, in, newTeardownOptions)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), s)
		},
	}
	newTeardownOptions().flags(cmd.Flags())
	return cmd
}

func (o *teardownOptions) run(ctx context.Context, s streams) error {
	id, err := o.names()
	if err != nil {
		return &configError{err}
	}
	table := o.table
	if !o.given("table") {
		table = "" // the witness knows it
	}
	return o.mended(setup.Teardown(ctx, setup.TeardownOptions{
		Database: o.database, Pipeline: o.pipeline, Slot: o.slot, Publication: o.publication, Table: table,
		DropTables: o.dropTables, Yes: o.yes,
	}, s.in, s.out), id)
}
