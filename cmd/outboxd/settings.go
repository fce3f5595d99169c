package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/config"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/suggest"
)

// inputs are what options come from beside the command line.
type inputs struct {
	env     map[string]string
	secrets *redactor // is told what a file holds
}

// origin says where an option has its value from.
type origin uint8

const (
	fromDefault origin = iota
	fromFlag
	fromVariable
	fromFile
)

// value is what one source says of an option.
type value struct {
	origin origin
	where  string // for errors; empty where pflag's say enough
	text   func() (string, error)
}

// layer is what one source says, by flag.
type layer map[string]value

// options are those of a command for one pipeline.
type options interface {
	flags(*pflag.FlagSet)
	common() *pipelineOptions
}

// load returns the options for each pipeline that the command is given: those
// that its configuration file has, else a single one. What an option is comes
// from the first that has it: flag, variable, the pipeline's part of the file,
// the top of the file, default.
func load[O options](cmd *cobra.Command, in inputs, fresh func() O) ([]O, error) {
	flags, variables := fromCommandLine(cmd.Flags()), fromEnvironment(cmd.Flags(), in.env)
	parts, err := readParts(flatten(flags, variables), in.env)
	if err != nil {
		return nil, &configError{err}
	}
	var list []O
	var problems []error
	for _, p := range parts {
		o := fresh()
		err := assign(o, in.secrets, flags, variables, p.own, p.shared)
		var usage usageError
		if errors.As(err, &usage) {
			return nil, err // the same for every pipeline
		}
		problems = append(problems, err)
		if c := o.common(); p.name != "" {
			c.pipeline, c.where = p.name, p.where
		}
		list = append(list, o)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, &configError{err}
	}
	return list, nil
}

// loadOne is load for commands that are for a single pipeline.
func loadOne[O options](cmd *cobra.Command, in inputs, fresh func() O) (O, error) {
	list, err := load(cmd, in, fresh)
	if err == nil {
		err = single(cmd, list)
	}
	if err != nil {
		var none O
		return none, err
	}
	return list[0], nil
}

// single refuses a file of several pipelines.
func single[O options](cmd *cobra.Command, list []O) error {
	if len(list) == 1 {
		return nil
	}
	var names []string
	for _, o := range list {
		names = append(names, o.common().pipeline)
	}
	return usageError{fmt.Errorf("%s is for one pipeline: choose it with --pipeline %s", cmd.CommandPath(), strings.Join(names, " or --pipeline "))}
}

func fromCommandLine(flags *pflag.FlagSet) layer {
	l := layer{}
	flags.Visit(func(f *pflag.Flag) {
		text := f.Value.String()
		l[f.Name] = value{fromFlag, "", func() (string, error) { return text, nil }}
	})
	return l
}

// fromEnvironment reads the variables of the flags. An empty one is none: that
// is how compose files and charts pass nothing.
func fromEnvironment(flags *pflag.FlagSet, env map[string]string) layer {
	l := layer{}
	flags.VisitAll(func(f *pflag.Flag) {
		if text := env[variable(f.Name)]; text != "" && f.Name != "help" {
			l[f.Name] = value{fromVariable, "variable " + variable(f.Name), func() (string, error) { return text, nil }}
		}
	})
	return l
}

func fromSettings(list []config.Setting, env map[string]string) layer {
	l := layer{}
	for _, s := range list {
		l[s.Key] = value{fromFile, s.Where, func() (string, error) { return s.Expand(env) }}
	}
	return l
}

// part is what a file says for one pipeline.
type part struct {
	name, where string // empty when the file describes a single one
	own, shared layer
}

// readParts reads the configuration file that is named, and returns its parts
// for all pipelines, or for the one that is chosen.
func readParts(given layer, env map[string]string) ([]part, error) {
	if given["config"].text == nil {
		return []part{{}}, nil
	}
	name, _ := given["config"].text()
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	file, err := config.Parse(name, text, fileSchema())
	if err != nil {
		return nil, err
	}
	top := fromSettings(file.Settings, env)
	if len(file.Pipelines) == 0 {
		return []part{{shared: top}}, nil
	}
	var parts []part
	for _, p := range file.Pipelines {
		parts = append(parts, part{p.Name, p.Where, fromSettings(p.Settings, env), top})
	}
	if given["pipeline"].text == nil {
		return parts, nil
	}
	chosen, _ := given["pipeline"].text()
	return choose(parts, chosen, name)
}

func choose(parts []part, name, file string) ([]part, error) {
	var names []string
	for i, p := range parts {
		if p.name == name {
			return parts[i : i+1], nil
		}
		names = append(names, p.name)
	}
	hint := ""
	if near := suggest.Nearest(name, names); near != "" {
		hint = ", did you mean " + near + "?"
	}
	return nil, fmt.Errorf("--pipeline %s is not in %s, which has %s%s", name, file, strings.Join(names, ", "), hint)
}

// fileSchema takes the keys of a file from the flags of outboxd run.
func fileSchema() (s config.Schema) {
	var o runOptions
	process := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.processOptions.flags(process)
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.flags(all)
	all.VisitAll(func(f *pflag.Flag) {
		switch {
		case f.Name == "config":
		case process.Lookup(f.Name) != nil:
			s.Process = append(s.Process, f.Name)
		default:
			s.Pipeline = append(s.Pipeline, f.Name)
		}
	})
	return s
}

// secretFile is the flag that names the file which holds the value of a flag,
// "" for most.
func secretFile(flag string) string {
	if flag == "database" || flag == "broker" {
		return flag + "-file"
	}
	return ""
}

// flatten keeps of each option what the first layer says that has it, or the
// file for it.
func flatten(layers ...layer) layer {
	all := layer{}
	for _, l := range layers {
		before := maps.Clone(all)
		for name, v := range l {
			_, taken := before[name]
			_, byFile := before[secretFile(name)]
			_, byValue := before[strings.TrimSuffix(name, "-file")]
			if !taken && !byFile && !byValue {
				all[name] = v
			}
		}
	}
	return all
}

// assign sets the options from the layers, the strongest first. All problems
// are reported at once; those of flags and variables are errors of usage.
func assign(o options, secrets *redactor, layers ...layer) error {
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.flags(set)
	common := o.common()
	common.origins = map[string]origin{}
	all := flatten(layers...)
	var usage, problems []error
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		if set.Lookup(name) == nil {
			continue // in a file, for another command
		}
		common.origins[name] = v.origin
		err := v.set(set, name, secrets)
		if err == nil && all[secretFile(name)].text != nil {
			err = v.at(fmt.Errorf("--%s and --%s: give one of them", name, secretFile(name)))
		}
		switch {
		case err == nil:
		case v.origin == fromFile:
			problems = append(problems, err)
		default:
			usage = append(usage, err)
		}
	}
	for _, name := range [...]string{"database", "broker"} {
		problems = append(problems, readSecret(set, name, secrets))
	}
	if err := errors.Join(usage...); err != nil {
		return usageError{err}
	}
	return errors.Join(problems...)
}

func (v value) set(flags *pflag.FlagSet, name string, secrets *redactor) error {
	text, err := v.text()
	if err != nil {
		return err
	}
	secrets.scan(text)
	return v.at(flags.Set(name, text))
}

// at adds to err which source it is about.
func (v value) at(err error) error {
	if err == nil || v.where == "" {
		return err
	}
	return fmt.Errorf("%s: %w", v.where, err)
}

// readSecret sets an option to the content of the file that was named for it,
// without the newline that editors put at the end.
func readSecret(flags *pflag.FlagSet, name string, secrets *redactor) error {
	file := flags.Lookup(secretFile(name))
	if file == nil || file.Value.String() == "" {
		return nil
	}
	content, err := os.ReadFile(file.Value.String())
	if err != nil {
		return fmt.Errorf("--%s: %w", file.Name, err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if text == "" {
		return fmt.Errorf("--%s: %s is empty", file.Name, file.Value)
	}
	secrets.scan(text)
	return flags.Set(name, text)
}

// placed says where in the configuration file the pipeline is that err is
// about, if it comes from one.
func (o *pipelineOptions) placed(err error) error {
	if err == nil || o.where == "" {
		return err
	}
	return fmt.Errorf("%s: pipeline %s: %w", o.where, o.pipeline, err)
}

// given says whether a flag, a variable or a file has the option.
func (o *pipelineOptions) given(flag string) bool {
	return cmp.Or(o.origins[flag], o.origins[secretFile(flag)]) != fromDefault
}
