package config_test

import (
	"strings"
	"testing"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/config"
)

func schema() config.Schema {
	return config.Schema{Process: []string{"metrics", "log-level"}, Pipeline: []string{"database", "pipeline", "broker", "drain-timeout", "slot"}}
}

func parse(text string) (*config.File, error) {
	return config.Parse("/etc/outboxd/outboxd.yaml", []byte(text), schema())
}

// show writes a file the way the tests expect it.
func show(f *config.File) string {
	var b strings.Builder
	settings := func(list []config.Setting) {
		for _, s := range list {
			value, err := s.Expand(map[string]string{"PW": "a: b}$"})
			if err != nil {
				value = err.Error()
			}
			b.WriteString(" " + s.Where + " " + s.Key + "=" + value)
		}
	}
	settings(f.Settings)
	for _, p := range f.Pipelines {
		b.WriteString(" [" + p.Name + " " + p.Where)
		settings(p.Settings)
		b.WriteString("]")
	}
	return strings.TrimSpace(strings.ReplaceAll(b.String(), "outboxd.yaml", ""))
}

func TestParse(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"one pipeline", "broker: jsonl:-\npipeline: p\n", ":1 broker=jsonl:- :2 pipeline=p"},
		{"two", "metrics: off\n\npipelines:\n  b:\n    broker: x\n  a: {broker: y, slot: s}\n",
			":1 metrics=off [b :4 :5 broker=x] [a :6 :6 broker=y :6 slot=s]"},
		{"types are the flags' business", "drain-timeout: 5\nbroker: \"7\"\nslot: yes\n", ":1 drain-timeout=5 :2 broker=7 :3 slot=yes"},
		{"all at the top", "broker: x\npipelines:\n  p:\n", ":1 broker=x [p :3]"},
		{"anchor", "pipelines:\n  a: {broker: &b x}\n  b: {broker: *b}\n", "[a :2 :2 broker=x] [b :3 :3 broker=x]"},
		{"a variable adds no keys", "broker: amqp://u:${PW}@h\n", ":1 broker=amqp://u:a: b}$@h"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, err := parse(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(file); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestStrict(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "outboxd.yaml: the file is empty"},
		{"only comments", "# nothing\n", "outboxd.yaml: the file is empty"},
		{"null", "---\n", "outboxd.yaml:2: want keys and values, as in broker: kafka://host:9092"},
		{"list", "- broker\n", "outboxd.yaml:1: want keys and values, as in broker: kafka://host:9092"},
		{"no keys", "{}\n", "outboxd.yaml:1: want keys and values, as in broker: kafka://host:9092"},
		{"two documents", "broker: x\n---\nbroker: y\n", "outboxd.yaml:3: a second document; everything belongs into one"},
		{"syntax", "broker: x\nslot: [\n", "outboxd.yaml:3: did not find expected node content"},
		{"syntax of a second document", "broker: x\n---\nslot: [\n", "outboxd.yaml:4: did not find expected node content"},
		{"unknown key", "brokr: x\n", "outboxd.yaml:1: unknown key brokr, did you mean broker?"},
		{"unlike any", "xyzzy: x\n", "outboxd.yaml:1: unknown key xyzzy"},
		{"nearly pipelines", "pipelnes: x\n", "outboxd.yaml:1: unknown key pipelnes, did you mean pipelines?"},
		{"unknown key of a pipeline", "pipelines:\n  p:\n    drain_timeout: 5s\n", "outboxd.yaml:3: unknown key drain_timeout, did you mean drain-timeout?"},
		{"merge key", "pipelines:\n  a: &a {broker: x}\n  b:\n    <<: *a\n", "outboxd.yaml:4: unknown key <<"},
		{"twice", "broker: x\nslot: s\nbroker: y\n", "outboxd.yaml:3: key broker is given twice, first in line 1"},
		{"pipeline twice", "pipelines:\n  p: {broker: x}\n  p: {broker: y}\n", "outboxd.yaml:3: pipeline p is given twice, first in line 2"},
		{"list for a value", "broker:\n  - x\n", "outboxd.yaml:2: broker: want one value"},
		{"mapping for a value", "broker: {a: b}\n", "outboxd.yaml:1: broker: want one value"},
		{"no value", "broker:\nslot: s\n", "outboxd.yaml:1: broker: want one value"},
		{"no pipelines", "pipelines:\n", "outboxd.yaml:1: pipelines: want a name and the keys of each pipeline below it"},
		{"list of pipelines", "pipelines: [a, b]\n", "outboxd.yaml:1: pipelines: want a name and the keys of each pipeline below it"},
		{"value for a pipeline", "pipelines:\n  p: x\n", "outboxd.yaml:2: pipeline p: want keys and values below its name"},
		{"key that is no word", "? [a]\n: b\n", "outboxd.yaml:1: a key must be a word"},
		{"process key below a pipeline", "pipelines:\n  p:\n    metrics: off\n", "outboxd.yaml:3: metrics is for the whole process: move it to the top of the file"},
		{"name below a pipeline", "pipelines:\n  p:\n    pipeline: q\n", "outboxd.yaml:3: pipeline p has its name already, which is its key"},
		{"name beside pipelines", "pipeline: q\npipelines:\n  p: {broker: x}\n", "outboxd.yaml:1: pipeline is for a file without pipelines; below pipelines the key is the name"},
		{"all at once", "brokr: x\npipelines:\n  p:\n    slt: s\n", "outboxd.yaml:1: unknown key brokr, did you mean broker?\noutboxd.yaml:4: unknown key slt, did you mean slot?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parse(tt.text); err == nil || err.Error() != tt.want {
				t.Errorf("%v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestExpand(t *testing.T) {
	variables := map[string]string{"A": "1", "B_2": "${A}", "EMPTY": ""}
	const dollar = "outboxd.yaml:1: broker: want ${VARIABLE}, or ${VARIABLE:-default}, behind a dollar; write $$ for the dollar itself"
	for _, tt := range []struct{ text, want string }{
		{"plain", "plain"},
		{"x${A}y${A}", "x1y1"},
		{"${B_2}", "${A}"}, // once
		{"${A:-2}", "1"},
		{"${NONE:-2}", "2"},
		{"${EMPTY:-a b:-c}", "a b:-c"},
		{"${NONE:-}", ""},
		{"^(.*)$$", "^(.*)$"},
		{"$${A}", "${A}"},
		{"${NONE}", "outboxd.yaml:1: broker: the variable NONE is empty or not set"},
		{"${EMPTY}", "outboxd.yaml:1: broker: the variable EMPTY is empty or not set"},
		{"$A", dollar}, {"$", dollar}, {"x$", dollar}, {"${A", dollar}, {"${}", dollar}, {"${1}", dollar}, {"${a-b}", dollar},
	} {
		file, err := parse("broker: '" + tt.text + "'\n")
		if err != nil {
			t.Fatal(err)
		}
		got, err := file.Settings[0].Expand(variables)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.text, got, tt.want)
		}
	}
}
