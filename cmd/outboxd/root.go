package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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

outboxd adopt mends what run refuses to go over by itself.

Every flag has an environment variable, OUTBOXD_ and its name; a flag goes
before its variable. PGHOST, PGUSER, PGPASSWORD and their like are honoured.

Exit codes: 0 ok, 1 failed at run time, 2 usage, 69 service unavailable,
70 defect, 75 gave up, try again later, 77 permission, 78 configuration.`

// execute runs the program and returns its exit code.
func execute(ctx context.Context, args, environ []string, s streams) int {
	env := environment(environ)
	hide := newRedactor(args, env)
	s.terminal = isTerminal(s.err)
	s.err = hide.writer(s.err)
	root := newRoot(env, s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return reportError(s.err, err)
}

// newRoot returns the command tree. Errors that a command's RunE returns are
// of the command; all others are of usage.
func newRoot(env map[string]string, s streams) *cobra.Command {
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
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags(), env)
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetIn(s.in)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpTemplate(helpTemplate)
	root.AddCommand(newSetup(s), newRun(env, s), newAdopt(s), newTeardown(s), newVersion(s))
	for _, cmd := range root.Commands() {
		cmd.Args = noArguments
		documentVariables(cmd.Flags())
	}
	return root
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
		if near := nearest(unknown.GetSpecifiedName(), names); near != "" {
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

// fromEnvironment sets the flags that were not given from their variables. An
// empty variable is none: that is how compose files and charts pass nothing.
func fromEnvironment(flags *pflag.FlagSet, env map[string]string) error {
	var problems []error
	flags.VisitAll(func(f *pflag.Flag) {
		value := env[variable(f.Name)]
		if f.Changed || value == "" || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			problems = append(problems, fmt.Errorf("variable %s: %w", variable(f.Name), err))
		}
	})
	if len(problems) > 0 {
		return usageError{errors.Join(problems...)}
	}
	return nil
}

// nearest returns the candidate that differs from name in the fewest letters,
// "" when all of them differ in too many to be meant.
func nearest(name string, candidates []string) string {
	best, found := 2+len(name)/4, ""
	for _, c := range candidates {
		if d := distance(name, c); d < best {
			best, found = d, c
		}
	}
	return found
}

// distance counts the letters to insert, remove or replace to make b of a.
func distance(a, b string) int {
	previous := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			row[j+1] = min(previous[j+1], row[j]) + 1
			if replace := previous[j]; a[i] == b[j] {
				row[j+1] = min(row[j+1], replace)
			} else {
				row[j+1] = min(row[j+1], replace+1)
			}
		}
		previous = row
	}
	return previous[len(b)]
}
