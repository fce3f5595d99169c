package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/replay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/publisher"
)

// replayOptions are those of outboxd replay: run's, and which rows.
type replayOptions struct {
	runOptions
	ids                        list
	since, until, from, resume string
	gap, dryRun                bool
}

// notOfReplay are flags of run that mean nothing to replay. It takes them all the
// same, so that it can be given what run is given.
var notOfReplay = []string{"setup", "retention", "metrics", "poison", "max-parked-events", "max-parked-bytes", "max-retained-wal", "max-retained-wal-action"}

func (o *replayOptions) flags(f *pflag.FlagSet) {
	f.BoolVar(&o.gap, "gap", false, "the rows of the gap that outboxd adopt noted; the relay must be stopped")
	f.StringVar(&o.since, "since", "", "rows created at or after that time: RFC 3339, or how long ago, as 2h")
	f.StringVar(&o.until, "until", "", "with --since: rows created before that time")
	f.StringVar(&o.from, "from", "", "rows of transactions with that xid or a later one")
	f.Var(&o.ids, "id", "the row with that event id; may be given several times")
	f.StringVar(&o.resume, "resume", "", "go on where a replay with the same options stopped: what it printed then")
	f.BoolVar(&o.dryRun, "dry-run", false, "count the rows and show the first and the last, publish nothing")
	o.runOptions.flags(f)
	for _, name := range notOfReplay {
		f.Lookup(name).Hidden = true
	}
}

// list is a flag that may be given several times. Its text has a line for each.
type list []string

func (l *list) String() string { return strings.Join(*l, "\n") }
func (l *list) Type() string   { return "string" }

func (l *list) Set(text string) error {
	for line := range strings.Lines(text) {
		*l = append(*l, strings.TrimSuffix(line, "\n"))
	}
	return nil
}

func newReplayOptions() *replayOptions { return &replayOptions{} }

func newReplay(in inputs, s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Publish rows of the event table again",
		Long: `Publishes selected rows that are still in the table again, in their order, to the
broker that outboxd run publishes to: give it the same flags or the same --config.
Each record has the header outboxd-replayed: true, and no ce_sequence, because the
table does not know it. Consumers drop what they have seen by ce_id.

--gap closes a gap: after outboxd adopt, before outboxd run. It holds the slot
meanwhile, so that a relay stands by, and begins at the floor that the pipeline
kept: some events come again, none is left out. The other selections may run
beside a relay; a replayed event then comes behind later ones of its key.

It reads one snapshot under an ACCESS SHARE lock: writers are not held up, and the
relay's TRUNCATE of an old partition gives way after 2 s and comes again. The
server sorts the rows, on its disk where they are many. Services that are away are
waited for. A row that can never be published is named and left out, and the exit
code is then 1. What is parked already, or was and is discarded, is left out too,
unless it is named by --id. Ctrl-C waits for acks and prints how to go on.`,
		Example: `  outboxd replay --config outboxd.yaml --gap
  outboxd replay --config outboxd.yaml --since 2h --dry-run
  outboxd replay --database postgres://outboxd@db/shop --broker kafka://k1:9092 --id 0195c3a4-7e00-7abc-8def-0123456789ab`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := loadOne(cmd, in, newReplayOptions)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), in, s)
		},
	}
	newReplayOptions().flags(cmd.Flags())
	return cmd
}

// selection is what the options choose; the floor of a gap is not known yet.
func (o *replayOptions) selection(now time.Time) (replay.Selection, error) {
	s := replay.Selection{IDs: o.ids, From: o.from}
	var problems []error
	if chosen(o.gap, o.since != "", o.from != "", len(o.ids) > 0) != 1 {
		problems = append(problems, errors.New("give one of --gap, --since, --from and --id"))
	}
	for _, t := range []struct {
		flag, text string
		time       *time.Time
	}{{"since", o.since, &s.Since}, {"until", o.until, &s.Until}} {
		var err error
		if *t.time, err = parseTime(t.text, now); err != nil {
			problems = append(problems, fmt.Errorf("--%s: %w", t.flag, err))
		}
	}
	if o.until != "" && o.since == "" {
		problems = append(problems, errors.New("--until needs --since"))
	}
	if o.from != "" {
		if _, err := strconv.ParseUint(o.from, 10, 64); err != nil {
			problems = append(problems, fmt.Errorf("--from %q: want a transaction id, as outboxd adopt prints it", o.from))
		}
	}
	if o.resume != "" {
		var err error
		if s.Resume, err = replay.ParseResume(o.resume); err != nil {
			problems = append(problems, fmt.Errorf("--resume: %w", err))
		}
	}
	return s, errors.Join(problems...)
}

// parseTime reads a time, or how long ago it was.
func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q: want a time as 2026-03-01T12:00:00Z, or how long ago as 90m", text)
	}
	return t, nil
}

func (o *replayOptions) run(ctx context.Context, in inputs, s streams) error {
	selection, err := o.selection(time.Now())
	p, invalid := o.validate()
	if err := errors.Join(err, o.processOptions.validate(), o.placed(invalid)); err != nil {
		return &configError{err}
	}
	log, _, err := newLogger(s.err, o.logLevel, o.logFormat, s.terminal)
	if err != nil {
		return err
	}
	if in.env["GOMEMLIMIT"] == "" {
		debug.SetMemoryLimit(memoryLimit + memoryPipeline)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) }) // as in run
	if p.Identity, err = setup.Recall(ctx, o.database, p.Identity, o.given); err != nil {
		return err
	}
	out := s.out
	if o.broker == "jsonl:-" {
		out = s.err // standard output is the records'
	}
	return o.mended(stopFirst(o.replay(ctx, p, selection, log, out)), p.Identity)
}

func (o *replayOptions) replay(ctx context.Context, p *pipeline, selection replay.Selection, log *slog.Logger, out io.Writer) error {
	cfg := o.readSide(p.Identity)
	if o.gap {
		floor, _, err := cdc.PendingGap(ctx, cfg)
		if err != nil {
			return err
		}
		if floor == "" {
			fmt.Fprintf(out, "pipeline %s: no gap is pending; if outboxd run stopped on one: outboxd adopt\n", p.Pipeline)
			return nil
		}
		selection.From = floor
	}
	if len(selection.IDs) == 0 { // who names an event means it
		selection.Parked = p.Pipeline
	}
	r := &replay.Replay{
		Database: o.database, Application: "outboxd " + p.Pipeline + " replay", Table: p.Table(), Columns: relay.Columns(p.columns), Select: selection,
		OpenPublisher: func(ctx context.Context, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			return p.broker.open(ctx, log, done, guard)
		},
		Format: p.format, DrainTimeout: o.drainTimeout, FailFast: o.failFast, Logger: log,
	}
	if o.dryRun {
		return preview(ctx, r, out)
	}
	if o.gap {
		if err := o.hold(r, p, cfg, log); err != nil {
			return err
		}
	}
	summary, err := r.Run(ctx)
	if err == nil || summary.Any {
		show(out, summary)
	}
	return o.verdict(summary, err)
}

// hold makes r keep the slot while it publishes, and close the gap when it has
// published all of it.
func (o *replayOptions) hold(r *replay.Replay, p *pipeline, cfg cdc.Config, log *slog.Logger) error {
	cfg.ConfigHash, cfg.Logger = p.configHash(), log
	reader, err := cdc.NewReader(cfg)
	if err != nil {
		return err
	}
	r.Lease = func(ctx context.Context) (replay.Lease, error) {
		stream, err := reader.Hold(ctx)
		if err != nil {
			return nil, err
		}
		return stream, nil
	}
	r.Finish = func(ctx context.Context, s replay.Summary) error {
		if s.Poison > 0 {
			return nil
		}
		return cdc.CloseGap(ctx, cfg, r.Select.From, "replay", fmt.Sprintf("seq %d", s.Last.Seq), fmt.Sprintf("%d records", s.Published))
	}
	return nil
}

func preview(ctx context.Context, r *replay.Replay, out io.Writer) error {
	p, err := r.Preview(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "rows       %d\n", p.Rows)
	if p.Rows > 0 {
		fmt.Fprintf(out, "first      %s\nlast       %s\n", describe(p.First), describe(p.Last))
	}
	return nil
}

func show(out io.Writer, s replay.Summary) {
	fmt.Fprintf(out, "published  %d records\n", s.Published)
	if s.Any {
		fmt.Fprintf(out, "first      %s\nlast       %s\n", describe(s.First), describe(s.Last))
	}
	if s.Poison > 0 {
		fmt.Fprintf(out, "left out   %d rows that cannot be published; the log names them\n", s.Poison)
	}
}

func describe(p replay.Place) string {
	text := "event " + p.ID
	if p.Seq != 0 {
		text += fmt.Sprintf(", seq %d", p.Seq)
	}
	if !p.Time.IsZero() {
		text += ", created at " + p.Time.UTC().Format(time.RFC3339Nano)
	}
	return text
}

// verdict is the error of a replay that did not publish everything.
func (o *replayOptions) verdict(s replay.Summary, err error) error {
	if err != nil {
		return unfinished(s, err)
	}
	if missing := o.missing(s); len(missing) > 0 {
		return fmt.Errorf("no row has the id %s", strings.Join(missing, ", "))
	}
	if s.Poison == 0 {
		return nil
	}
	fix := "the log names each with its reason: raise the limit or change the configuration, and replay these rows by --id"
	if o.gap {
		fix += "; the gap is pending until all of it is published, or given up with outboxd skip --gap"
	}
	return &relay.StopError{Fault: relay.Fault{Code: "poison", Exit: relay.ExitFailed, Fix: fix}, Err: fmt.Errorf("%d rows cannot be published as they are", s.Poison)}
}

// unfinished says how a replay that ended with err goes on.
func unfinished(s replay.Summary, err error) error {
	var slot *cdc.Error
	if errors.As(err, &slot) && !s.Any {
		return err
	}
	fault := relay.Classify(err)
	if slot != nil && slot.Code == cdc.CodeSlotActive { // taken meanwhile
		fault.Exit, fault.Fix = exitLater, "stop the relay first"
	}
	if errors.Is(err, context.Canceled) {
		fault = relay.Fault{Code: "interrupted", Exit: relay.ExitFailed}
		err = errors.New("interrupted before everything was published")
	}
	again := "to go on, run it again with the same options"
	if resume := s.Resume.String(); resume != "" {
		again += " and --resume " + shellWord(resume)
	}
	if fault.Fix != "" {
		again = fault.Fix + "; " + again
	}
	fault.Fix = again
	return &relay.StopError{Fault: fault, Err: err}
}

// missing are the ids of the options that no row has.
func (o *replayOptions) missing(s replay.Summary) (missing []string) {
	if o.resume != "" {
		return nil // they may have been published before
	}
	found := make(map[string]bool, len(s.IDs))
	for id := range s.IDs {
		found[plainID(id)] = true
	}
	for _, id := range o.ids {
		if !found[plainID(id)] {
			missing = append(missing, id)
		}
	}
	return missing
}

// plainID is the same for all forms of a UUID that the server takes.
func plainID(id string) string {
	return strings.NewReplacer("{", "", "}", "", "-", "").Replace(strings.ToLower(id))
}
