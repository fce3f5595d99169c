package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/pflag"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// configError is everything that is wrong with the options' values.
type configError struct{ error }

func (e *configError) Unwrap() error { return e.error }

// pipelineOptions name the database and what belongs to one pipeline there.
// Every command but version has them.
type pipelineOptions struct {
	database, pipeline, slot, publication, table string
}

func (o *pipelineOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.database, "database", "", "PostgreSQL, as postgres://user:password@host:port/database; what is left out comes from PG* variables")
	f.StringVar(&o.pipeline, "pipeline", "", "name of the pipeline (default: from the names of database and table)")
	f.StringVar(&o.slot, "slot", "", "replication slot (default: outboxd_PIPELINE)")
	f.StringVar(&o.publication, "publication", "", "publication (default: outboxd_PIPELINE)")
	f.StringVar(&o.table, "table", setup.DefaultTable, "event table, as schema.name")
}

// names fills in the names that were not given.
func (o *pipelineOptions) names() (setup.Identity, error) {
	config, err := pgx.ParseConfig(o.database)
	if err != nil {
		return setup.Identity{}, fmt.Errorf("--database: %w", err) // pgx hides the password
	}
	return setup.Names(cmp.Or(config.Database, config.User), o.table, o.pipeline, o.slot, o.publication)
}

// complete adds to the commands in a fix what it takes to mean the same
// pipeline: who gave the names to run must give them to setup and adopt.
// Teardown has them from the witness.
func (o *pipelineOptions) complete(fix, pipeline string) string {
	var names strings.Builder
	for _, a := range [...]struct{ flag, value, standard string }{
		{"slot", o.slot, ""}, {"publication", o.publication, ""}, {"table", o.table, setup.DefaultTable},
	} {
		if a.value != a.standard {
			fmt.Fprintf(&names, " --%s %s", a.flag, shellWord(a.value))
		}
	}
	for _, command := range [...]string{"outboxd setup --pipeline " + pipeline, "outboxd adopt --pipeline " + pipeline} {
		fix = strings.ReplaceAll(fix, command, command+names.String())
	}
	return fix
}

// shellWord quotes a name so that a shell takes it for one word.
func shellWord(name string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_.-", r)
	}
	if strings.TrimFunc(name, plain) == "" {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// runOptions are those of outboxd run.
type runOptions struct {
	pipelineOptions
	given func(flag string) bool // whether the flag or its variable was

	broker, topic, exchange, routingKey  string
	format, source, columns              string
	ordering, unroutable, poison         string
	topicPartitions, topicReplication    int
	createTopics, allowUnkeyed, failFast bool
	setup                                bool
	retention, drainTimeout              time.Duration
	metrics, logLevel, logFormat         string
	debezium                             record.Debezium
}

const (
	defaultExchange = "outbox"
	defaultMetrics  = "127.0.0.1:9924"
	off             = "off"
)

// debeziumFlags are those of --format debezium.
var debeziumFlags = []string{"debezium-converter", "debezium-placement", "debezium-ignore-missing", "debezium-tombstone-on-empty",
	"debezium-route-by", "debezium-route-regex"}

func (o *runOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	f.StringVar(&o.columns, "columns", "", "columns of an existing table that have other names, as id=event_id,payload=body")
	f.BoolVar(&o.setup, "setup", false, "do first what outboxd setup does")
	f.DurationVar(&o.retention, "retention", setup.DefaultRetention, "how long rows must stay in the table at least; refused when its partitions cannot hold that")

	f.StringVar(&o.broker, "broker", "", "kafka://host:9092,…  amqp://user:password@host/vhost  jsonl:-  (kafka+tls:// and amqps:// for TLS; options behind ?)")
	f.StringVar(&o.topic, "topic", record.DefaultTopic, "Kafka topic; {aggregatetype}, {aggregateid} and {type} are filled in")
	f.BoolVar(&o.createTopics, "create-topics", false, "create topics that are missing")
	f.IntVar(&o.topicPartitions, "topic-partitions", 0, "partitions of created topics (0: the broker's default)")
	f.IntVar(&o.topicReplication, "topic-replication", 0, "replication factor of created topics (0: the broker's default)")
	f.StringVar(&o.exchange, "exchange", defaultExchange, "RabbitMQ exchange; it must exist")
	f.StringVar(&o.routingKey, "routing-key", record.DefaultRoutingKey, "RabbitMQ routing key, filled in like --topic")
	f.StringVar(&o.ordering, "ordering", "strict", "RabbitMQ: strict keeps the order of a key also across a refusal, pipelined does not wait")
	f.StringVar(&o.unroutable, "unroutable", "hold", "RabbitMQ, an event that no queue is bound for: hold it, or discard and count it")

	f.StringVar(&o.format, "format", string(record.CloudEvents), "form of the records: cloudevents or debezium")
	f.StringVar((*string)(&o.debezium.Converter), "debezium-converter", string(record.StringConverter), "--format debezium: key.converter and value.converter, string or json (schemas.enable=false)")
	f.StringVar(&o.debezium.Placement, "debezium-placement", "", "--format debezium: table.fields.additional.placement, as type:header:eventType")
	f.BoolVar(&o.debezium.IgnoreMissing, "debezium-ignore-missing", false, "--format debezium: table.field.additional.missing=ignore")
	f.BoolVar(&o.debezium.TombstoneOnEmpty, "debezium-tombstone-on-empty", false, "--format debezium: route.tombstone.on.empty.payload=true")
	f.StringVar(&o.debezium.RouteBy, "debezium-route-by", "", "--format debezium: route.by.field, with --debezium-route-regex (default: aggregatetype)")
	f.StringVar(&o.debezium.RouteRegex, "debezium-route-regex", "", "--format debezium: route.topic.regex; its groups are placeholders of --topic")
	f.StringVar(&o.source, "source", "", "ce_source of the records (default: /outboxd/PIPELINE)")
	f.BoolVar(&o.allowUnkeyed, "allow-unkeyed", false, "publish events without an aggregate id, in no order")
	f.StringVar(&o.poison, "poison", "stop", "an event that can never be published: stop in front of it")

	f.DurationVar(&o.drainTimeout, "drain-timeout", relay.DefaultDrainTimeout, "how long a stop waits for the broker's acks")
	f.BoolVar(&o.failFast, "fail-fast", false, "exit with the first fault (69 when a service is unreachable) instead of trying again")
	f.StringVar(&o.metrics, "metrics", defaultMetrics, "address of /metrics, /livez and /readyz; port 0 takes a free one, off listens nowhere")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "auto", "text, json, or auto: text on a terminal, else json")
}

// pipeline is what the options of a run come to.
type pipeline struct {
	setup.Identity
	broker  broker
	format  *record.Format
	columns setup.Columns
	hash    string
}

// validate checks everything that needs neither database nor broker, and
// reports all that is wrong at once.
func (o *runOptions) validate() (*pipeline, error) {
	var problems []error
	check := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	var p pipeline
	var err error
	p.Identity, err = o.names()
	check(err)
	p.columns, err = setup.ParseColumns(o.columns)
	check(err)
	p.broker, err = o.newBroker()
	check(err)
	check(oneOf("poison", o.poison, "stop"))
	check(oneOf("log-format", o.logFormat, "auto", "text", "json"))
	_, err = parseLevel(o.logLevel)
	check(err)
	if o.format != string(record.DebeziumRouter) {
		for _, flag := range debeziumFlags {
			if o.given(flag) {
				check(fmt.Errorf("--%s needs --format %s", flag, record.DebeziumRouter))
			}
		}
	}
	if o.drainTimeout <= 0 {
		check(fmt.Errorf("--drain-timeout %s: want more than 0", o.drainTimeout))
	}
	// Without a name, which is a problem already, the rest is checked all the
	// same.
	options := o.recordOptions(p.broker.kind, cmp.Or(p.Pipeline, "unnamed"))
	if p.broker.open != nil {
		p.format, err = record.New(options)
		check(err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, &configError{err}
	}
	p.hash = configHash(options, p.Identity, p.columns, p.broker)
	return &p, nil
}

func (o *runOptions) recordOptions(kind record.Broker, pipeline string) record.Options {
	options := record.Options{
		Broker: kind, Style: record.Style(o.format), Pipeline: pipeline, Source: o.source,
		Topic: o.topic, AllowUnkeyed: o.allowUnkeyed,
	}
	if options.Style == record.DebeziumRouter {
		options.Debezium = o.debezium
	}
	if kind == record.RabbitMQ {
		options.Topic = o.routingKey
	}
	return options
}

// configHash names everything that decides which records are made of which
// events and where they go. Relays of one pipeline must agree on it: the second
// would otherwise take over and publish something else. What only changes how
// fast or how visibly that happens is left out, and so are passwords.
func configHash(o record.Options, names setup.Identity, columns setup.Columns, b broker) string {
	text, err := json.Marshal(struct {
		Record  record.Options
		Names   setup.Identity
		Columns string
		Broker  string
		Policy  string
	}{o, names, columns.String(), b.address, b.policy})
	if err != nil {
		panic(err) // strings and booleans
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func oneOf(flag, value string, allowed ...string) error {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	hint := ""
	if near := nearest(value, allowed); near != "" {
		hint = fmt.Sprintf(", did you mean %s?", near)
	}
	return fmt.Errorf("--%s %q: want %s%s", flag, value, strings.Join(allowed, " or "), hint)
}
