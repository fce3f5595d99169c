package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/suggest"
)

// streams are what a command reads and writes. in is for questions, out for
// results and records, err for logs and errors.
type streams struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // people read err
}

// envPrefix begins the variable of every flag: --drain-timeout is
// OUTBOXD_DRAIN_TIMEOUT.
const envPrefix = "OUTBOXD_"

const rootHelp = `outboxd publishes the events that services write into their own PostgreSQL
transactions to Kafka or RabbitMQ: every committed event, at least once, in
commit order per key.

  1. outboxd setup     once per pipeline: table, publication, replication slot
  2. outboxd run       the relay; run two, the second stands by
  3. outboxd teardown  takes back what setup made

Where run stops rather than lose something: outboxd adopt goes on behind a gap,
outboxd replay publishes what was missed, outboxd skip leaves an event out.
outboxd parked shows the events that cannot be published, and retries or discards
them.

Every flag has an environment variable, OUTBOXD_ and its name, and is a key of
the YAML file that --config names, in which ${VARIABLE} is filled in. A flag goes
before its variable, a variable before the file. PGHOST, PGUSER, PGPASSWORD and
their like are honoured.

Exit codes: 0 ok, 1 failed at run time, 2 usage, 69 service unavailable,
70 defect, 75 gave up, try again later, 77 permission, 78 configuration.`

// execute runs the program and returns its exit code.
func execute(ctx context.Context, args, environ []string, s streams) int {
	env := environment(environ)
	hide := newRedactor(args, env)
	s.terminal = isTerminal(s.err)
	s.err = hide.writer(s.err)
	root := newRoot(inputs{env, hide}, s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return reportError(s.err, err)
}

// newRoot returns the command tree. Errors that a command's RunE returns are
// of the command; all others are of usage.
func newRoot(in inputs, s streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "outboxd",
		Short:         "Publish events from PostgreSQL transactions to Kafka or RabbitMQ",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetIn(s.in)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpTemplate(helpTemplate)
	root.AddCommand(newSetup(in, s), newRun(in, s), newAdopt(in, s), newReplay(in, s), newSkip(in, s), newTeardown(in, s), newParked(in, s), newVersion(s))
	complete(root)
	return root
}

// complete gives the commands below parent what all of them have.
func complete(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		if cmd.Args == nil {
			cmd.Args = noArguments
		}
		documentVariables(cmd.Flags())
		complete(cmd)
	}
}

// helpTemplate puts the examples first: most readers look for one.
const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}
{{end}}{{if .HasExample}}
Examples:
{{.Example}}
{{end}}{{if .Runnable}}
Usage:
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsagesWrapped 100 | trimTrailingWhitespaces}}{{end}}
`

// usageError is an error in how the program was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	message := fmt.Sprintf("unknown argument %q", args[0])
	if cmd.HasSubCommands() {
		message = fmt.Sprintf("unknown command %q", args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			message += fmt.Sprintf(", did you mean %s", strings.Join(near, " or "))
		}
	}
	return usageError{fmt.Errorf("%s; see %s --help", message, cmd.CommandPath())}
}

// flagError adds to an unknown flag the one that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	hint := ""
	if errors.As(err, &unknown) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := suggest.Nearest(unknown.GetSpecifiedName(), names); near != "" {
			hint = ", did you mean --" + near
		}
	}
	return usageError{fmt.Errorf("%w%s; see %s --help", err, hint, cmd.CommandPath())}
}

func variable(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func documentVariables(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.VisitAll(func(f *pflag.Flag) { f.Usage += " [$" + variable(f.Name) + "]" })
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	return env
}
