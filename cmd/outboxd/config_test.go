package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
)

func TestConfigurationErrors(t *testing.T) {
	tests := []struct {
		name string
		args string
		want []string
	}{
		{"no broker", "", []string{"--broker is missing", "kafka://, kafka+tls://, amqp://, amqps://, jsonl:"}},
		{"unknown scheme", "--broker kafak://h", []string{`begins with "kafak"`, "did you mean kafka?", "amqps://"}},
		{"unknown option of kafka", "--broker kafka://h?lnger=5", []string{"lnger"}},
		{"unknown option of amqp", "--broker amqp://h?exchnge=x", []string{"exchnge", "did you mean exchange"}},
		{"template", "--broker kafka://h --topic x.{agregatetype}", []string{"unknown placeholder {agregatetype}", "{aggregatetype}"}},
		{"illegal topic", "--broker kafka://h --topic orders/all", []string{`"orders/all"`}},
		{"routing key", "--broker amqp://h --routing-key {typ}", []string{"unknown placeholder {typ}"}},
		{"format", "--broker kafka://h --format avro", []string{`unknown style "avro"`}},
		{"unroutable", "--broker amqp://h --unroutable drop", []string{"drop"}},
		{"ordering", "--broker amqp://h --ordering loose", []string{"loose"}},
		{"poison", "--broker kafka://h --poison drop", []string{`--poison "drop": want park-key or park or stop`}},
		{"no room", "--broker kafka://h --max-parked-events 0", []string{"--max-parked-events 0"}},
		{"no limit to drop at", "--broker kafka://h --max-retained-wal-action drop-slot", []string{"--max-retained-wal-action drop-slot needs --max-retained-wal"}},
		{"action", "--broker kafka://h --max-retained-wal 1GiB --max-retained-wal-action drop", []string{`--max-retained-wal-action "drop": want warn or drop-slot`}},
		{"flags of another broker", "--broker amqp://h --create-topics --topic x", []string{"--create-topics is not for a RabbitMQ broker", "--topic is not for a RabbitMQ broker"}},
		{"partitions of nothing", "--broker kafka://h --topic-partitions 3", []string{"need --create-topics"}},
		{"columns", "--broker kafka://h --columns identity=x", []string{`no field "identity"`}},
		{"table", `--broker kafka://h --table a.b.c`, []string{`table "a.b.c"`}},
		{"log level", "--broker kafka://h --log-level loud", []string{"--log-level"}},
		{"log format", "--broker kafka://h --log-format jsno", []string{"did you mean json?"}},
		{"drain", "--broker kafka://h --drain-timeout 0s", []string{"--drain-timeout 0s"}},
		{"database", "--broker kafka://h --database postgres://h:port/x", []string{"--database"}},
		{"everything at once", "--broker x: --pipeline Bad! --poison p --log-level l", []string{"--broker", `pipeline "Bad!"`, "--poison", "--log-level"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call(t, nil, append([]string{"run"}, strings.Fields(tt.args)...)...).expect(t, 78, tt.want...)
		})
	}
}

// parsed is what load makes of the flags of a run.
func parsed(t *testing.T, args string) *runOptions {
	t.Helper()
	cmd := &cobra.Command{}
	newRunOptions().flags(cmd.Flags())
	if err := cmd.ParseFlags(strings.Fields("--database postgres://h/shop " + args)); err != nil {
		t.Fatal(err)
	}
	o, err := loadOne(cmd, inputs{secrets: &redactor{}}, newRunOptions)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestConfigHash: relays that would publish the same may differ in everything
// else.
func TestConfigHash(t *testing.T) {
	hash := func(args string) string {
		p, err := parsed(t, args).validate()
		if err != nil {
			t.Fatal(err)
		}
		return p.configHash()
	}
	const base = "--broker kafka://user:password@h1,h2?sasl=plain "
	want := hash(base)
	for _, same := range []string{
		"--broker kafka://user:other@h2:9092,h1:9092?sasl=plain",
		base + "--metrics off --log-level debug --fail-fast --drain-timeout 1s --retention 1h --max-retained-wal 1GiB --max-retained-wal-action drop-slot",
		base + "--pipeline shop_outbox --slot outboxd_shop_outbox",
	} {
		if hash(same) != want {
			t.Errorf("%s: another hash", same)
		}
	}
	seen := map[string]string{want: base}
	for _, other := range []string{
		"--broker kafka://h3", "--broker jsonl:-", "--broker amqp://h1", "--broker amqp://h1/v", "--broker amqp://h1 --exchange e",
		"--broker amqp://h1 --routing-key k", "--broker amqp://h1 --unroutable discard", "--broker amqp://h1 --unroutable park", base + "--poison park", base + "--poison stop", base + "--topic t", base + "--format debezium", base + "--source /s", base + "--allow-unkeyed",
		base + "--columns id=event_id", base + "--table public.events", base + "--pipeline p", base + "--slot s", base + "--publication p",
	} {
		h := hash(other)
		if first, taken := seen[h]; taken {
			t.Errorf("%q and %q have one hash", first, other)
		}
		seen[h] = other
	}
}

func TestBrokerKinds(t *testing.T) {
	for broker, want := range map[string]record.Broker{
		"kafka://h": record.Kafka, "kafka+tls://h": record.Kafka, "amqp://h": record.RabbitMQ, "amqps://h": record.RabbitMQ, "jsonl:-": record.Kafka,
	} {
		p, err := parsed(t, "--broker "+broker).validate()
		if err != nil {
			t.Errorf("%s: %v", broker, err)
			continue
		}
		if p.broker.kind != want || p.broker.open == nil {
			t.Errorf("%s: kind %s", broker, p.broker.kind)
		}
	}
}

// TestTally: a counter does not begin again with a session.
func TestTally(t *testing.T) {
	sessions := newTally(func(p *metrics.Broker) metrics.Broker { return *p })
	if got := sessions.sum(); got != (metrics.Broker{}) {
		t.Errorf("before the first session: %+v", got)
	}
	first := &metrics.Broker{Discarded: 2, Blocked: true, GrownTopics: 1}
	if p, err := sessions.follow(first, nil); p != first || err != nil {
		t.Errorf("follow returned %v, %v", p, err)
	}
	first.Discarded = 5
	if _, err := sessions.follow(nil, errors.New("refused")); err == nil {
		t.Error("an error was lost")
	}
	if got, want := sessions.sum(), (metrics.Broker{Discarded: 5, Blocked: true, GrownTopics: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	_, _ = sessions.follow(&metrics.Broker{Discarded: 1}, nil)
	_, _ = sessions.follow(&metrics.Broker{Discarded: 10}, nil)
	if got, want := sessions.sum(), (metrics.Broker{Discarded: 16}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestDebeziumFlags(t *testing.T) {
	const base = "--broker kafka://h --format debezium "
	hashes := map[string]bool{}
	for _, args := range []string{"", "--debezium-converter json", "--debezium-placement type:header:eventType", "--debezium-tombstone-on-empty",
		"--debezium-ignore-missing", "--debezium-route-regex (?P<kind>.*) --topic x.{kind}", "--debezium-route-by type --debezium-route-regex (?P<kind>.*) --topic x.{kind}"} {
		p, err := parsed(t, base+args).validate()
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		if hashes[p.configHash()] {
			t.Errorf("%s does not change the configuration", args)
		}
		hashes[p.configHash()] = true
	}
	for args, want := range map[string]string{
		"--broker kafka://h --debezium-placement type:header":      "--debezium-placement needs --format debezium",
		base + "--debezium-converter avro":                         "unknown debezium converter",
		base + "--debezium-placement nowhere:header":               "nowhere",
		base + "--debezium-route-by type --debezium-route-regex (": "missing closing )",
	} {
		if _, err := parsed(t, args).validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
