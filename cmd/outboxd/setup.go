package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/outbox"
)

// setupOptions are those of outboxd setup.
type setupOptions struct {
	pipelineOptions
	columns, payload       string
	retention, slotTimeout time.Duration
	relayRole, appRole     string
	print                  bool
	serverVersion          int
}

func (o *setupOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	f.StringVar(&o.columns, "columns", "", "columns of an existing table that have other names, as id=event_id,payload=body")
	f.StringVar(&o.payload, "payload", string(outbox.JSON), "type of the payload column of a new table: json, jsonb, text or bytea")
	f.DurationVar(&o.retention, "retention", setup.DefaultRetention, "how long a new table keeps its rows at least")
	f.DurationVar(&o.slotTimeout, "slot-timeout", setup.DefaultSlotTimeout, "how long to wait for open transactions, which hold up a new slot")
	f.StringVar(&o.relayRole, "relay-role", "", "existing role that gets what outboxd run needs")
	f.StringVar(&o.appRole, "app-role", "", "existing role that gets what services need to write events")
	f.BoolVar(&o.print, "print", false, "print the SQL for a DBA and change nothing")
	f.IntVar(&o.serverVersion, "server-version", 0, "with --print: major version to write for when the server cannot be reached (default: 17)")
}

func newSetup(s streams) *cobra.Command {
	o := &setupOptions{}
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Make the event table, the publication and the replication slot",
		Long: `Makes what a pipeline needs in the database: the event table, the publication,
the replication slot. It may be run any number of times, makes what is missing
and says what it did. Everything that stands in the way is named at once, before
anything is changed.

From now on the slot keeps WAL until outboxd run confirms it: run the relay, or
take the slot back with outboxd teardown.`,
		Example: `  outboxd setup --database postgres://owner@db/shop --relay-role outboxd --app-role shop
  outboxd setup --database postgres://owner@db/shop --print > for-the-dba.sql
  outboxd setup --database postgres://owner@db/shop --table public.events --columns id=event_id,payload=body`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := o.options()
			if err != nil {
				return err
			}
			if o.print {
				return setup.Print(cmd.Context(), options, s.out)
			}
			return setup.Apply(cmd.Context(), options, s.out)
		},
	}
	o.flags(cmd.Flags())
	return cmd
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
