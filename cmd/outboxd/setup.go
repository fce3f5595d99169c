package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/outbox"
)

// setupOptions are those of outboxd setup.
type setupOptions struct {
	pipelineOptions
	payload                string
	retention, slotTimeout time.Duration
	relayRole, appRole     string
	print                  bool
	serverVersion          int
}

func (o *setupOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	o.columnsFlag(f)
	f.StringVar(&o.payload, "payload", string(outbox.JSON), "type of the payload column of a new table: json, jsonb, text or bytea")
	f.DurationVar(&o.retention, "retention", 0, "how long a new table keeps its rows at least (default: 72h)")
	f.DurationVar(&o.slotTimeout, "slot-timeout", setup.DefaultSlotTimeout, "how long to wait for open transactions, which hold up a new slot")
	f.StringVar(&o.relayRole, "relay-role", "", "existing role that gets what outboxd run needs")
	f.StringVar(&o.appRole, "app-role", "", "existing role that gets what services need to write events")
	f.BoolVar(&o.print, "print", false, "print the SQL for a DBA and change nothing")
	f.IntVar(&o.serverVersion, "server-version", 0, "with --print: major version to write for when the server cannot be reached (default: 17)")
}

func newSetup(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Make the event table, the publication and the replication slot",
		Long: `Makes what a pipeline needs in the database: the event table, the publication,
the replication slot. It may be run any number of times, makes what is missing
and says what it did. Everything that stands in the way is named at once, before
anything is changed.

With --config it sets up all pipelines of the file, one after the other, or the
one of --pipeline. A --database beside it is for them all: the owner's, where the
file has the relay's.

From now on the slot keeps WAL until outboxd run confirms it: run the relay, or
take the slot back with outboxd teardown.`,
		Example: `  outboxd setup --database postgres://owner@db/shop --relay-role outboxd --app-role shop
  outboxd setup --database postgres://owner@db/shop --print > for-the-dba.sql
  outboxd setup --database postgres://owner@db/shop --table public.events --columns id=event_id,payload=body
  outboxd setup --config outboxd.yaml --database postgres://owner@db/shop --relay-role outboxd`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := load(cmd, in, newSetupOptions)
			if err == nil && list[0].print {
				err = single(cmd, list) // a second script would make again what the first makes
			}
			if err != nil {
				return err
			}
			for _, o := range list {
				if len(list) > 1 {
					fmt.Fprintf(s.out, "pipeline %s\n", o.pipeline)
				}
				if err := o.run(cmd.Context(), s.out); err != nil {
					return o.placed(err)
				}
			}
			return nil
		},
	}
	newSetupOptions().flags(cmd.Flags())
	return cmd
}

func newSetupOptions() *setupOptions { return &setupOptions{} }

func (o *setupOptions) run(ctx context.Context, out io.Writer) error {
	options, err := o.options()
	if err != nil {
		return err
	}
	id, err := o.names()
	if err != nil {
		return &configError{err}
	}
	if o.print {
		return o.mended(setup.Print(ctx, options, out), id)
	}
	return o.mended(setup.Apply(ctx, options, out), id)
}

func (o *setupOptions) options() (setup.Options, error) {
	columns, err := setup.ParseColumns(o.columns)
	if err != nil {
		return setup.Options{}, &configError{err}
	}
	return setup.Options{
		Database: o.database, Pipeline: o.pipeline, Slot: o.slot, Publication: o.publication, Table: o.table,
		Columns: columns, Payload: outbox.PayloadType(o.payload), Retention: o.retention, SlotTimeout: o.slotTimeout,
		RelayRole: o.relayRole, AppRole: o.appRole, ServerVersion: o.serverVersion,
	}, nil
}
