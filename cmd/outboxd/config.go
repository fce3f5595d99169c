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
	"github.com/outboxd/outboxd/cmd/outboxd/internal/suggest"
)

// configError is everything that is wrong with the options' values.
type configError struct{ error }

func (e *configError) Unwrap() error { return e.error }

// pipelineOptions name the database and what belongs to one pipeline there.
// Every command but version has them.
type pipelineOptions struct {
	config                             string
	database, databaseFile             string
	pipeline, slot, publication, table string
	columns                            string // of run and setup

	origins map[string]origin // of what was given, by flag
	where   string            // of the pipeline in the configuration file, if that names it
}

func (o *pipelineOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.config, "config", "", "YAML file; its keys are the flags of outboxd run, and below pipelines: they are of one pipeline")
	f.StringVar(&o.database, "database", "", "PostgreSQL, as postgres://user:password@host:port/database; what is left out comes from PG* variables, but sslmode is verify-full")
	f.StringVar(&o.databaseFile, "database-file", "", "file that holds what --database would say")
	f.StringVar(&o.pipeline, "pipeline", "", "name of the pipeline, also to choose it from --config (default: from the names of database and table)")
	f.StringVar(&o.slot, "slot", "", "replication slot (default: outboxd_PIPELINE)")
	f.StringVar(&o.publication, "publication", "", "publication (default: outboxd_PIPELINE)")
	f.StringVar(&o.table, "table", setup.DefaultTable, "event table, as schema.name")
}

func (o *pipelineOptions) columnsFlag(f *pflag.FlagSet) {
	f.StringVar(&o.columns, "columns", "", "columns of an existing table that have other names, as id=event_id,payload=body")
}

// common makes every struct that embeds it options.
func (o *pipelineOptions) common() *pipelineOptions { return o }

// names fills in the names that were not given.
func (o *pipelineOptions) names() (setup.Identity, error) {
	config, err := pgx.ParseConfig(o.database)
	if err != nil {
		return setup.Identity{}, fmt.Errorf("--database: %w", err) // pgx hides the password
	}
	return setup.Names(cmp.Or(config.Database, config.User), o.table, o.pipeline, o.slot, o.publication)
}

// processOptions are those that several pipelines of one process share.
type processOptions struct {
	metrics, logLevel, logFormat string
}

func (o *processOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.metrics, "metrics", defaultMetrics, "address of /metrics, /livez and /readyz; port 0 takes a free one, off listens nowhere")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "auto", "text, json, or auto: text on a terminal, else json")
}

func (o *processOptions) validate() error {
	_, err := parseLevel(o.logLevel)
	return errors.Join(oneOf("log-format", o.logFormat, "auto", "text", "json"), err)
}

// runOptions are those of outboxd run.
type runOptions struct {
	pipelineOptions
	processOptions

	broker, brokerFile                   string
	topic, exchange, routingKey          string
	format, source                       string
	ordering, unroutable, poison         string
	topicPartitions, topicReplication    int
	createTopics, allowUnkeyed, failFast bool
	setup                                bool
	maxParkedEvents                      int
	maxParkedBytes, maxRetainedWAL       bytesValue
	maxRetainedWALAction                 string
	retention, drainTimeout              time.Duration
	debezium                             record.Debezium
}

const (
	defaultExchange = "outbox"
	defaultMetrics  = "127.0.0.1:9924"
	defaultPoison   = string(relay.ParkKey)
	off             = "off"

	// What to do beyond --max-retained-wal.
	warn     = "warn"
	dropSlot = "drop-slot"
)

// debeziumFlags are those of --format debezium.
var debeziumFlags = []string{"debezium-converter", "debezium-placement", "debezium-ignore-missing", "debezium-tombstone-on-empty",
	"debezium-route-by", "debezium-route-regex"}

func (o *runOptions) flags(f *pflag.FlagSet) {
	o.pipelineOptions.flags(f)
	o.columnsFlag(f)
	f.BoolVar(&o.setup, "setup", false, "do first what outboxd setup does")
	f.DurationVar(&o.retention, "retention", 0, "how long rows must stay in the table at least; refused when its partitions cannot hold that (default: what they hold; 72h for a table that --setup makes)")

	f.StringVar(&o.broker, "broker", "", "kafka://host:9092,…  amqp://user:password@host/vhost  jsonl:-  (kafka+tls:// and amqps:// for TLS; options behind ?)")
	f.StringVar(&o.brokerFile, "broker-file", "", "file that holds what --broker would say")
	f.StringVar(&o.topic, "topic", record.DefaultTopic, "Kafka topic; {aggregatetype}, {aggregateid} and {type} are filled in")
	f.BoolVar(&o.createTopics, "create-topics", false, "create topics that are missing")
	f.IntVar(&o.topicPartitions, "topic-partitions", 0, "partitions of created topics (0: the broker's default)")
	f.IntVar(&o.topicReplication, "topic-replication", 0, "replication factor of created topics (0: the broker's default)")
	f.StringVar(&o.exchange, "exchange", defaultExchange, "RabbitMQ exchange; it must exist")
	f.StringVar(&o.routingKey, "routing-key", record.DefaultRoutingKey, "RabbitMQ routing key, filled in like --topic")
	f.StringVar(&o.ordering, "ordering", "strict", "RabbitMQ: strict keeps the order of a key also across a refusal, pipelined does not wait")
	f.StringVar(&o.unroutable, "unroutable", "hold", "RabbitMQ, an event that no queue is bound for: hold it, discard and count it, or park it as --poison says")

	f.StringVar(&o.format, "format", string(record.CloudEvents), "form of the records: cloudevents or debezium")
	f.StringVar((*string)(&o.debezium.Converter), "debezium-converter", string(record.StringConverter), "--format debezium: key.converter and value.converter, string or json (schemas.enable=false)")
	f.StringVar(&o.debezium.Placement, "debezium-placement", "", "--format debezium: table.fields.additional.placement, as type:header:eventType")
	f.BoolVar(&o.debezium.IgnoreMissing, "debezium-ignore-missing", false, "--format debezium: table.field.additional.missing=ignore")
	f.BoolVar(&o.debezium.TombstoneOnEmpty, "debezium-tombstone-on-empty", false, "--format debezium: route.tombstone.on.empty.payload=true")
	f.StringVar(&o.debezium.RouteBy, "debezium-route-by", "", "--format debezium: route.by.field, with --debezium-route-regex (default: aggregatetype)")
	f.StringVar(&o.debezium.RouteRegex, "debezium-route-regex", "", "--format debezium: route.topic.regex; its groups are placeholders of --topic")
	f.StringVar(&o.source, "source", "", "ce_source of the records (default: /outboxd/PIPELINE)")
	f.BoolVar(&o.allowUnkeyed, "allow-unkeyed", false, "publish events without an aggregate id, in no order")
	f.StringVar(&o.poison, "poison", defaultPoison, "an event that can never be published: park-key parks it and what comes later of its key, park parks it alone, stop stops in front of it")
	f.IntVar(&o.maxParkedEvents, "max-parked-events", relay.DefaultMaxParkedEvents, "how many events may be parked; then the pipeline waits")
	o.maxParkedBytes = relay.DefaultMaxParkedBytes
	f.Var(&o.maxParkedBytes, "max-parked-bytes", "how many bytes of events may be parked, as 256MiB or a number; then the pipeline waits")

	f.Var(&o.maxRetainedWAL, "max-retained-wal", "how many bytes of WAL the slot may keep, as 10GiB or a number (default: any)")
	f.StringVar(&o.maxRetainedWALAction, "max-retained-wal-action", warn, "beyond --max-retained-wal: warn goes on and says so, drop-slot drops the slot and stops; what was not published is then to be replayed")

	f.DurationVar(&o.drainTimeout, "drain-timeout", relay.DefaultDrainTimeout, "how long a stop waits for the broker's acks")
	f.BoolVar(&o.failFast, "fail-fast", false, "exit with the first fault (69 when a service is unreachable) instead of trying again")
	o.processOptions.flags(f)
}

// pipeline is what the options of a run come to.
type pipeline struct {
	setup.Identity
	broker  broker
	record  record.Options
	format  *record.Format
	columns setup.Columns
	poison  string // of the policies for poison events, one that is not the default
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
	check(oneOf("poison", o.poison, string(relay.ParkKey), string(relay.Park), string(relay.Stop)))
	if o.maxParkedEvents <= 0 {
		check(fmt.Errorf("--max-parked-events %d: want more than 0", o.maxParkedEvents))
	}
	check(oneOf("max-retained-wal-action", o.maxRetainedWALAction, warn, dropSlot))
	if o.maxRetainedWALAction != warn && o.maxRetainedWAL == 0 {
		check(fmt.Errorf("--max-retained-wal-action %s needs --max-retained-wal", o.maxRetainedWALAction))
	}
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
	if o.retention < 0 {
		check(fmt.Errorf("--retention %s: want more than 0", o.retention))
	}
	if o.poison != defaultPoison {
		p.poison = o.poison
	}
	// Without a name, which is a problem already, the rest is checked all the
	// same.
	p.record = o.recordOptions(p.broker.kind, cmp.Or(p.Pipeline, "unnamed"))
	if p.broker.open != nil {
		p.format, err = record.New(p.record)
		check(err)
	}
	return &p, errors.Join(problems...)
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
// fast or how visibly that happens is left out, and so are passwords, and what a
// relay does for the sake of the database: --max-retained-wal and its action end
// a pipeline, by name, and change no record.
func (p *pipeline) configHash() string {
	text, err := json.Marshal(struct {
		Record  record.Options
		Names   setup.Identity
		Columns string
		Broker  string
		Policy  string
		Poison  string `json:",omitempty"`
	}{p.record, p.Identity, p.columns.String(), p.broker.address, p.broker.policy, p.poison})
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
	if near := suggest.Nearest(value, allowed); near != "" {
		hint = fmt.Sprintf(", did you mean %s?", near)
	}
	return fmt.Errorf("--%s %q: want %s%s", flag, value, strings.Join(allowed, " or "), hint)
}
