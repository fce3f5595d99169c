// Package config reads outboxd's configuration file, YAML whose keys are names
// of flags:
//
//	database: postgres://outboxd@db/shop     # for every pipeline
//	pipelines:
//	  kafka:
//	    broker: kafka://k1:9092
//	  rabbitmq:
//	    broker: amqp://outboxd:${RABBIT_PASSWORD}@rabbit/
//
// It is strict: what nobody would read is an error. It knows where a value
// stands and not what it means: values go to the flags, which parse them.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/suggest"
)

// pipelinesKey is the one key that is no flag.
const pipelinesKey = "pipelines"

// nameKey is the flag that names a pipeline.
const nameKey = "pipeline"

// Schema says which keys a file may have.
type Schema struct {
	// Process are keys at the top of the file only.
	Process []string
	// Pipeline are keys at the top, where they are for every pipeline, or below
	// one.
	Pipeline []string
}

// File is what a configuration file says.
type File struct {
	// Settings are those at the top, in the order of the file.
	Settings []Setting
	// Pipelines are in the order of the file. None: the file describes a single
	// one by its Settings.
	Pipelines []Pipeline
}

// Pipeline is a part of the file for one pipeline.
type Pipeline struct {
	Name     string
	Where    string // file:line
	Settings []Setting
}

// Setting is one key with its value, as it is written.
type Setting struct {
	Key   string
	Where string // file:line
	value string
}

// Parse reads the text of a file. The name is for errors, which are joined: all
// that is wrong is reported at once.
func Parse(name string, text []byte, schema Schema) (*File, error) {
	p := &parser{name: filepath.Base(name), schema: schema}
	top, err := p.document(text)
	if err != nil {
		return nil, err
	}
	file := p.file(top)
	if err := errors.Join(p.problems...); err != nil {
		return nil, err
	}
	return file, nil
}

// parser collects what is wrong on its way through the nodes.
type parser struct {
	name     string
	schema   Schema
	problems []error
}

func (p *parser) where(n *yaml.Node) string { return fmt.Sprintf("%s:%d", p.name, n.Line) }

func (p *parser) problem(n *yaml.Node, format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf("%s: %s", p.where(n), fmt.Sprintf(format, args...)))
}

// document returns the mapping that the only document of the text is.
func (p *parser) document(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: the file is empty", p.name)
	case err != nil:
		return nil, p.syntax(err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, fmt.Errorf("%s: a second document; everything belongs into one", p.where(second.Content[0]))
	case !errors.Is(err, io.EOF):
		return nil, p.syntax(err)
	}
	top := first.Content[0]
	if top.Kind != yaml.MappingNode || len(top.Content) == 0 {
		return nil, fmt.Errorf("%s: want keys and values, as in broker: kafka://host:9092", p.where(top))
	}
	return top, nil
}

// syntax gives an error of the YAML library the form of the others.
func (p *parser) syntax(err error) error {
	var load *yaml.LoadError
	if errors.As(err, &load) {
		return fmt.Errorf("%s:%d: %s", p.name, load.Mark.Line, load.Message)
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

func (p *parser) file(top *yaml.Node) *File {
	keys := slices.Concat(p.schema.Process, p.schema.Pipeline, []string{pipelinesKey})
	file := &File{}
	var pipelines, name *yaml.Node
	p.entries(top, "key", func(key, value *yaml.Node) {
		switch {
		case key.Value == pipelinesKey:
			pipelines = key
			file.Pipelines = p.pipelines(value)
		case !slices.Contains(keys, key.Value):
			p.unknown(key, keys)
		default:
			if key.Value == nameKey {
				name = key
			}
			file.Settings = p.setting(file.Settings, key, value)
		}
	})
	if pipelines != nil && name != nil {
		p.problem(name, "pipeline is for a file without pipelines; below pipelines the key is the name")
	}
	return file
}

func (p *parser) pipelines(n *yaml.Node) (list []Pipeline) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		p.problem(n, "pipelines: want a name and the keys of each pipeline below it")
		return nil
	}
	p.entries(n, "pipeline", func(key, value *yaml.Node) {
		list = append(list, Pipeline{Name: key.Value, Where: p.where(key), Settings: p.pipeline(key, value)})
	})
	return list
}

func (p *parser) pipeline(name, n *yaml.Node) (settings []Setting) {
	if n.ShortTag() == "!!null" {
		return nil // all it needs is at the top
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, "pipeline %s: want keys and values below its name", name.Value)
		return nil
	}
	p.entries(n, "key", func(key, value *yaml.Node) {
		switch {
		case key.Value == nameKey:
			p.problem(key, "pipeline %s has its name already, which is its key", name.Value)
		case slices.Contains(p.schema.Process, key.Value):
			p.problem(key, "%s is for the whole process: move it to the top of the file", key.Value)
		case !slices.Contains(p.schema.Pipeline, key.Value):
			p.unknown(key, p.schema.Pipeline)
		default:
			settings = p.setting(settings, key, value)
		}
	})
	return settings
}

// entries calls do for each key of a mapping that is there for the first time.
func (p *parser) entries(mapping *yaml.Node, what string, do func(key, value *yaml.Node)) {
	first := map[string]int{}
	for i := 0; i < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if key.Kind != yaml.ScalarNode {
			p.problem(key, "a %s must be a word", what)
			continue
		}
		if line, seen := first[key.Value]; seen {
			p.problem(key, "%s %s is given twice, first in line %d", what, key.Value, line)
			continue
		}
		first[key.Value] = key.Line
		do(key, value)
	}
}

func (p *parser) setting(list []Setting, key, value *yaml.Node) []Setting {
	if value.Kind != yaml.ScalarNode || value.ShortTag() == "!!null" {
		p.problem(value, "%s: want one value", key.Value)
		return list
	}
	return append(list, Setting{Key: key.Value, Where: p.where(key), value: value.Value})
}

func (p *parser) unknown(key *yaml.Node, known []string) {
	hint := ""
	if near := suggest.Nearest(key.Value, known); near != "" {
		hint = ", did you mean " + near + "?"
	}
	p.problem(key, "unknown key %s%s", key.Value, hint)
}

// Expand returns the value with ${VAR} and ${VAR:-default} filled in and $$ for
// a dollar. A variable that is empty or not set is an error, unless there is a
// default. This comes after parsing: no variable can add keys, and no quoting
// is needed for what it holds.
func (s Setting) Expand(variables map[string]string) (string, error) {
	var b strings.Builder
	for rest := s.value; ; {
		plain, after, found := strings.Cut(rest, "$")
		b.WriteString(plain)
		if !found {
			return b.String(), nil
		}
		if after, found = strings.CutPrefix(after, "$"); found {
			b.WriteByte('$')
			rest = after
			continue
		}
		reference, after, closed := strings.Cut(after, "}")
		reference, opened := strings.CutPrefix(reference, "{")
		name, standard, optional := strings.Cut(reference, ":-")
		if !opened || !closed || !isName(name) {
			return "", fmt.Errorf("%s: %s: want ${VARIABLE}, or ${VARIABLE:-default}, behind a dollar; write $$ for the dollar itself", s.Where, s.Key)
		}
		value := cmp.Or(variables[name], standard)
		if value == "" && !optional {
			return "", fmt.Errorf("%s: %s: the variable %s is empty or not set", s.Where, s.Key, name)
		}
		b.WriteString(value)
		rest = after
	}
}

// isName says whether s can be the name of a variable.
func isName(s string) bool {
	for i, c := range s {
		if !(c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || i > 0 && '0' <= c && c <= '9') {
			return false
		}
	}
	return s != ""
}
