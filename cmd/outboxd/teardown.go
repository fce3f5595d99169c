package main

import (
	"github.com/spf13/cobra"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

func newTeardown(s streams) *cobra.Command {
	var names pipelineOptions
	var dropTables, yes bool
	cmd := &cobra.Command{
		Use:   "teardown",
		Short: "Drop the replication slot and the publication of a pipeline",
		Long: `Drops the pipeline's slot, then its publication; the event table and its rows
only with --drop-tables. It asks for the pipeline's name first. Events that were
not relayed yet will not be, unless they are still in the table.`,
		Example: `  outboxd teardown --database postgres://owner@db/shop
  outboxd teardown --database postgres://owner@db/shop --drop-tables --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			table := names.table
			if !cmd.Flags().Changed("table") {
				table = "" // the witness knows it
			}
			return setup.Teardown(cmd.Context(), setup.TeardownOptions{
				Database: names.database, Pipeline: names.pipeline, Slot: names.slot, Publication: names.publication, Table: table,
				DropTables: dropTables, Yes: yes,
			}, s.in, s.out)
		},
	}
	names.flags(cmd.Flags())
	cmd.Flags().BoolVar(&dropTables, "drop-tables", false, "also drop the event table and all rows in it")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
