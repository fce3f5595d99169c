package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// write makes a file and returns its name.
func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// loadRun is load for a run with the arguments.
func loadRun(env map[string]string, args ...string) ([]*runOptions, error) {
	cmd := &cobra.Command{Use: "outboxd run"}
	newRunOptions().flags(cmd.Flags())
	if err := cmd.ParseFlags(args); err != nil {
		return nil, err
	}
	return load(cmd, inputs{env, &redactor{}}, newRunOptions)
}

const twoPipelines = `
database: postgres://relay@db/shop
drain-timeout: 7s
log-level: warn
pipelines:
  kafka:
    broker: kafka://k1
    topic: "{aggregatetype}"
    create-topics: true
  rabbitmq:
    broker: amqp://rabbit
    drain-timeout: 9s
    slot: a_slot
`

// TestPrecedence: flag, variable, part of the file, top of the file, default.
func TestPrecedence(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "outboxd.yaml", twoPipelines)
	type fields struct{ pipeline, broker, topic, slot, drain, level, metrics string }
	tests := []struct {
		name string
		env  map[string]string
		args []string
		want []fields
	}{
		{"file", nil, nil, []fields{
			{"kafka", "kafka://k1", "{aggregatetype}", "", "7s", "warn", defaultMetrics},
			{"rabbitmq", "amqp://rabbit", "outbox.event.{aggregatetype}", "a_slot", "9s", "warn", defaultMetrics},
		}},
		{"variables", map[string]string{"OUTBOXD_DRAIN_TIMEOUT": "1s", "OUTBOXD_METRICS": "off"}, nil, []fields{
			{"kafka", "kafka://k1", "{aggregatetype}", "", "1s", "warn", "off"},
			{"rabbitmq", "amqp://rabbit", "outbox.event.{aggregatetype}", "a_slot", "1s", "warn", "off"},
		}},
		{"flags", map[string]string{"OUTBOXD_DRAIN_TIMEOUT": "1s"}, []string{"--drain-timeout", "2s", "--log-level", "debug"}, []fields{
			{"kafka", "kafka://k1", "{aggregatetype}", "", "2s", "debug", defaultMetrics},
			{"rabbitmq", "amqp://rabbit", "outbox.event.{aggregatetype}", "a_slot", "2s", "debug", defaultMetrics},
		}},
		{"one chosen", nil, []string{"--pipeline", "rabbitmq"}, []fields{
			{"rabbitmq", "amqp://rabbit", "outbox.event.{aggregatetype}", "a_slot", "9s", "warn", defaultMetrics},
		}},
		{"one chosen by a variable", map[string]string{"OUTBOXD_PIPELINE": "kafka"}, nil, []fields{
			{"kafka", "kafka://k1", "{aggregatetype}", "", "7s", "warn", defaultMetrics},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := loadRun(tt.env, append(tt.args, "--config", "outboxd.yaml")...)
			if err != nil {
				t.Fatal(err)
			}
			var got []fields
			for _, o := range list {
				got = append(got, fields{o.pipeline, o.broker, o.topic, o.slot, o.drainTimeout.String(), o.logLevel, o.metrics})
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v\nwant %v", got, tt.want)
			}
			if o := list[0]; !o.given("database") || o.given("table") || o.given("topic") != (o.pipeline == "kafka") {
				t.Errorf("%s: origins %v", o.pipeline, o.origins)
			}
		})
	}
}

// TestSecretFiles: a value can be in a file; that belongs to where its name
// stands, so that a stronger source replaces the two together.
func TestSecretFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "db", "postgres://from-file\n")
	write(t, "windows", "postgres://from-file\r\n")
	write(t, "two", "a\n\n")
	write(t, "empty", "\n")
	top := write(t, "top.yaml", "database-file: db\nbroker: jsonl:-\n")
	tests := []struct {
		name string
		env  map[string]string
		args []string
		want string // database, or the error
	}{
		{"flag", nil, []string{"--database-file", "db"}, "postgres://from-file"},
		{"variable", map[string]string{"OUTBOXD_DATABASE_FILE": "db"}, nil, "postgres://from-file"},
		{"configuration file", nil, []string{"--config", top}, "postgres://from-file"},
		{"a flag goes before a file of the variables", map[string]string{"OUTBOXD_DATABASE_FILE": "db"}, []string{"--database", "x"}, "x"},
		{"a file of the flags goes before a variable", map[string]string{"OUTBOXD_DATABASE": "x"}, []string{"--database-file", "db"}, "postgres://from-file"},
		{"a variable goes before a file of the configuration", map[string]string{"OUTBOXD_DATABASE": "x"}, []string{"--config", top}, "x"},
		{"CR LF", nil, []string{"--database-file", "windows"}, "postgres://from-file"},
		{"one newline", nil, []string{"--database-file", "two"}, "a\n"},
		{"both flags", nil, []string{"--database-file", "db", "--database", "x"}, "--database and --database-file: give one of them"},
		{"both variables", map[string]string{"OUTBOXD_BROKER_FILE": "db", "OUTBOXD_BROKER": "x"}, nil, "variable OUTBOXD_BROKER: --broker and --broker-file: give one of them"},
		{"both keys", nil, []string{"--config", write(t, "both.yaml", "database: x\ndatabase-file: db\n")}, "both.yaml:1: --database and --database-file: give one of them"},
		{"missing", nil, []string{"--broker-file", "nowhere"}, "--broker-file: open nowhere: no such file or directory"},
		{"empty", nil, []string{"--broker-file", "empty"}, "--broker-file: empty is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := loadRun(tt.env, tt.args...)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = list[0].database
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestConfigFileErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"two":     twoPipelines,
		"bad":     "database: postgres://db/shop\ndrain-timeout: 5\nfail-fast: maybe\nbroker: ${NOWHERE}\n",
		"unknown": "databse: postgres://db/shop\n", "slot": "slot: s\npipelines:\n  a: {broker: 'jsonl:-'}\n  b: {broker: 'jsonl:-'}\n",
		"invalid": "log-level: loud\npipelines:\n  Bad!: {broker: 'jsonl:-'}\n  b: {broker: 'ftp:x', poison: p}\n",
		"one":     "pipeline: p\nbroker: ftp:x\n", "secret": "database: postgres://u:" + canary + "@127.0.0.1:port/db\nbroker: jsonl:-\n",
	} {
		write(t, name+".yaml", text)
	}
	tests := []struct {
		args string
		exit int
		want []string
	}{
		{"run --config nowhere.yaml", 78, []string{"--config: open nowhere.yaml: no such file"}},
		{"run --config bad.yaml", 78, []string{`bad.yaml:2: invalid argument "5" for "--drain-timeout"`, `bad.yaml:3: invalid argument "maybe" for "--fail-fast"`, "bad.yaml:4: broker: the variable NOWHERE is empty or not set"}},
		{"setup --config unknown.yaml", 78, []string{"unknown.yaml:1: unknown key databse, did you mean database?"}},
		{"run --config two.yaml --pipeline kafak", 78, []string{"--pipeline kafak is not in two.yaml, which has kafka, rabbitmq, did you mean kafka?"}},
		{"adopt --config two.yaml", 2, []string{"outboxd adopt is for one pipeline: choose it with --pipeline kafka or --pipeline rabbitmq"}},
		{"teardown --config two.yaml --yes", 2, []string{"outboxd teardown is for one pipeline"}},
		{"setup --config two.yaml --print", 2, []string{"outboxd setup is for one pipeline"}},
		{"run --config slot.yaml --fail-fast --metrics off --database postgres://127.0.0.1:1/x", 78, []string{"slot.yaml:4: pipeline b: slot s is that of pipeline a already (slot.yaml:3); each needs its own"}},
		{"run --config invalid.yaml", 78, []string{`--log-level "loud"`, `invalid.yaml:3: pipeline Bad!: pipeline "Bad!": want`, `invalid.yaml:4: pipeline b: --broker begins with "ftp"`, `--poison "p"`}},
		{"run --config two.yaml --drain-timeout 0s", 78, []string{"two.yaml:6: pipeline kafka: --drain-timeout 0s", "two.yaml:10: pipeline rabbitmq: --drain-timeout 0s"}},
		{"run --config one.yaml", 78, []string{`--broker begins with "ftp"`}},
		{"run --config secret.yaml", 78, []string{"--database", "***"}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			r := call(t, nil, strings.Fields(tt.args)...)
			r.expect(t, tt.exit, tt.want...)
			if strings.Contains(r.err, canary) || strings.Contains(r.err, "ry/pass") {
				t.Errorf("the password was printed:\n%s", r.err)
			}
		})
	}
}

// TestSlotsApart: slots are the server's, so the same name is all right on
// another.
func TestSlotsApart(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "outboxd.yaml", "slot: s\nbroker: 'jsonl:-'\npipelines:\n  a: {database: postgres://h1/x}\n  b: {database: postgres://h2/x}\n")
	list, err := loadRun(nil, "--config", "outboxd.yaml")
	if err == nil {
		_, err = validate(list)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestFileSchema: every flag of run is a key, and which are the process's is
// settled.
func TestFileSchema(t *testing.T) {
	s := fileSchema()
	if want := []string{"log-format", "log-level", "metrics"}; !slices.Equal(slices.Sorted(slices.Values(s.Process)), want) {
		t.Errorf("keys of the process %v, want %v", s.Process, want)
	}
	cmd := &cobra.Command{}
	newRunOptions().flags(cmd.Flags())
	known := map[string]bool{}
	for _, key := range append(s.Process, s.Pipeline...) {
		known[key] = cmd.Flags().Lookup(key) != nil
	}
	if known["config"] || !known["database-file"] || !known["pipeline"] || slices.Contains(slices.Collect(maps.Values(known)), false) {
		t.Errorf("keys %v", known)
	}
}
