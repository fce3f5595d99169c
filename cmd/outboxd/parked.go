package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
)

// parkedOptions are those of the commands below outboxd parked; each has some
// of them.
type parkedOptions struct {
	pipelineOptions
	command string // the last word of it

	key, destination, reason string
	all, wait, payload       bool
	limit                    int
	output, note             string
}

func (o *parkedOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	if o.command == "show" {
		f.BoolVar(&o.payload, "payload", false, "write the payload's bytes and nothing else")
		return
	}
	f.StringVar(&o.key, "key", "", "the events of an aggregate id")
	f.StringVar(&o.destination, "destination", "", "with --key: only those for this topic or routing key")
	f.StringVar(&o.reason, "reason", "", "the events that were parked for this reason")
	if o.command == "list" {
		f.IntVar(&o.limit, "limit", 100, "how many events to list at most")
		return
	}
	f.BoolVar(&o.all, "all", false, "all events")
	f.BoolVar(&o.wait, "wait", false, "wait until the relay has done it")
	if o.command == "discard" {
		f.StringVar(&o.note, "note", "", "why the events are discarded; it is kept")
	}
}

func newParked(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "parked",
		Short: "Show, retry or discard the events that cannot be published",
		Long: `An event that can never be published as it is (too large, no aggregate id, an
illegal topic) is parked in the database, with every later event of its key
behind it. These commands show what is parked and mark it; the relay of the
pipeline works the marks off, within a second or so, in the order of the events.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(
		newParkedCommand(in, s, &cobra.Command{
			Use:   "list",
			Short: "List parked events: by reason, or those of a key or a reason",
			Example: `  outboxd parked list --database postgres://outboxd@db/shop
  outboxd parked list --database postgres://outboxd@db/shop --reason too_large`,
		}),
		newParkedCommand(in, s, &cobra.Command{
			Use:     "show ID",
			Short:   "Show everything of a parked event, by its id or position",
			Example: `  outboxd parked show --database postgres://outboxd@db/shop 0190d5a5-6c3a-7000-8000-000000000001`,
			Args:    cobra.ArbitraryArgs,
		}),
		newParkedCommand(in, s, &cobra.Command{
			Use:   "retry [ID…]",
			Short: "Have parked events published after all",
			Long: `Marks parked events, by id or position, for the relay to publish. What is parked
only behind one of them follows it. An event that cannot be published this time
either stays parked. What is marked to be discarded is retried by its id alone.`,
			Example: `  outboxd parked retry --database postgres://outboxd@db/shop --reason too_large --wait
  outboxd parked retry --database postgres://outboxd@db/shop --key order-4711`,
			Args: cobra.ArbitraryArgs,
		}),
		newParkedCommand(in, s, &cobra.Command{
			Use:   "discard [ID…]",
			Short: "Give up parked events",
			Long: `Marks parked events, by id or position, for the relay to discard: they are never
published. A row stays that says which, who and why, without payload and headers.
What is parked behind a discarded event stays parked until it is retried.`,
			Example: `  outboxd parked discard --database postgres://outboxd@db/shop --note 'test order' 0190d5a5-6c3a-7000-8000-000000000001`,
			Args:    cobra.ArbitraryArgs,
		}),
	)
	return cmd
}

// newParkedCommand completes one of the commands.
func newParkedCommand(in inputs, s streams, cmd *cobra.Command) *cobra.Command {
	fresh := func() *parkedOptions { return &parkedOptions{command: cmd.Name()} }
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		o, err := loadOne(cmd, in, fresh)
		if err != nil {
			return err
		}
		if err := o.check(ids); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
		}
		return o.run(cmd.Context(), s, ids)
	}
	fresh().flags(cmd.Flags())
	return cmd
}

// check finds what cannot be meant.
func (o *parkedOptions) check(ids []string) error {
	selections := 0
	for _, given := range [...]bool{len(ids) > 0, o.given("key"), o.reason != "", o.all} {
		if given {
			selections++
		}
	}
	err := oneOf("output", o.output, "table", "json")
	switch {
	case err != nil:
		return err
	case o.command == "show" && len(ids) != 1:
		return errors.New("give one id or position")
	case o.command == "list" && selections > 1:
		return errors.New("give one of --key and --reason")
	case o.command == "list" && o.limit <= 0:
		return fmt.Errorf("--limit %d: want more than 0", o.limit)
	case (o.command == "retry" || o.command == "discard") && selections != 1:
		return errors.New("give ids, --key, --reason or --all: one of them")
	case o.destination != "" && !o.given("key"):
		return errors.New("--destination needs --key")
	case o.command == "discard" && strings.TrimSpace(o.note) == "":
		return errors.New("say with --note why the events are discarded")
	}
	return nil
}

func (o *parkedOptions) selection(ids []string) parked.Selection {
	s := parked.Selection{Destination: o.destination, Reason: o.reason, All: o.all}
	if len(ids) > 0 {
		s.IDs = ids
	}
	if o.given("key") {
		s.Key = &o.key
	}
	return s
}

func (o *parkedOptions) run(ctx context.Context, s streams, ids []string) error {
	id, err := o.names()
	if err != nil {
		return &configError{err}
	}
	desk, err := parked.OpenDesk(ctx, o.database, id.Pipeline)
	if err != nil {
		return o.mended(err, id)
	}
	defer desk.Close()
	return o.mended(o.do(ctx, desk, s, ids), id)
}

func (o *parkedOptions) do(ctx context.Context, desk *parked.Desk, s streams, ids []string) error {
	switch o.command {
	case "show":
		row, err := desk.Show(ctx, ids[0])
		if err != nil {
			return err
		}
		if o.payload {
			_, err := s.out.Write(row.Payload)
			return err
		}
		return o.printer(s).row(row)
	case "list":
		return o.list(ctx, desk, s)
	case "retry":
		return o.mark(ctx, desk, s, ids, parked.Retry)
	default:
		return o.mark(ctx, desk, s, ids, parked.Discard)
	}
}

func (o *parkedOptions) list(ctx context.Context, desk *parked.Desk, s streams) error {
	sel := o.selection(nil)
	if sel.Key == nil && sel.Reason == "" {
		groups, err := desk.Groups(ctx)
		if err != nil {
			return err
		}
		return o.printer(s).groups(groups)
	}
	rows, err := desk.List(ctx, sel, o.limit+1)
	if err != nil {
		return err
	}
	more := len(rows) > o.limit
	if more {
		rows = rows[:o.limit]
	}
	if err := o.printer(s).rows(rows); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(s.err, "there are more than %d: see --limit\n", o.limit)
	}
	return nil
}

func (o *parkedOptions) mark(ctx context.Context, desk *parked.Desk, s streams, ids []string, as parked.State) error {
	m, err := desk.Mark(ctx, o.selection(ids), as, o.note)
	if err != nil {
		return err
	}
	result := marking{Marked: len(m.Positions), Behind: m.Behind}
	if o.wait {
		refused, err := desk.Wait(ctx, m.Positions)
		if err != nil {
			return err
		}
		result.Waited, result.Refused = true, refused
	}
	return o.printer(s).marking(as, result)
}
