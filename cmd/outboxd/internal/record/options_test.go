package record_test

import (
	"strings"
	"testing"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
)

func TestBadOptions(t *testing.T) {
	debezium := func(d record.Debezium) record.Options {
		return record.Options{Style: record.DebeziumRouter, Debezium: d}
	}
	for _, test := range []struct {
		name    string
		options record.Options
		want    string
	}{
		{"broker", record.Options{Broker: "nats", Pipeline: "p"}, `unknown broker "nats"; known: kafka, rabbitmq`},
		{"style", record.Options{Style: "avro"}, `unknown style "avro"; known: cloudevents, debezium`},
		{"no source", record.Options{}, "neither a pipeline nor a source"},
		{"source", record.Options{Source: "a\x7f"}, "is not a URI reference"},
		{"source of debezium", record.Options{Style: record.DebeziumRouter, Source: "/x"}, "a source is for the style cloudevents"},
		{"debezium of cloudevents", record.Options{Pipeline: "p", Debezium: record.Debezium{TombstoneOnEmpty: true}}, "debezium options are for the style debezium"},
		{"converter", debezium(record.Debezium{Converter: "avro"}), `unknown debezium converter "avro"; known: string, json`},
		{"envelope of strings", debezium(record.Debezium{Placement: "type:envelope"}), "needs the converter json"},
		{"missing column (ob15)", debezium(record.Debezium{Placement: "nosuch:header"}), `unknown column "nosuch"; known: id, aggregatetype, aggregateid, type, headers, created_at`},
		{"partition", debezium(record.Debezium{Placement: "type:partition"}), "want column:header or column:envelope"},
		{"no place", debezium(record.Debezium{Placement: "type"}), "want column:header or column:envelope"},
		{"empty alias", debezium(record.Debezium{Placement: "type:header:"}), "the alias is empty"},
		{"empty item", debezium(record.Debezium{Placement: "type:header,"}), "want column:header or column:envelope"},
		{"route without regex", debezium(record.Debezium{RouteBy: "type"}), "as in outbox.event.{type}"},
		{"route by", debezium(record.Debezium{RouteBy: "id", RouteRegex: "x"}), `route by unknown column "id"; known: aggregatetype, aggregateid, type`},
		{"regex", debezium(record.Debezium{RouteRegex: "("}), "missing closing )"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := record.New(test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestBadOptionsAreNamedAtOnce(t *testing.T) {
	_, err := record.New(record.Options{
		Style: record.DebeziumRouter, Topic: "{x}",
		Debezium: record.Debezium{Converter: "avro", Placement: "a:header,b:nowhere"},
	})
	for _, want := range []string{"{x}", `"avro"`, `"a"`, `"b:nowhere"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s in it", err, want)
		}
	}
	_, err = record.New(record.Options{
		Style: record.DebeziumRouter, Topic: "{name}", Debezium: record.Debezium{RouteRegex: "(?<name>"},
	})
	if err == nil || strings.Contains(err.Error(), "placeholder") {
		t.Errorf("error %v blames the template for the route", err)
	}
}

func TestPlacementAllowsSpaces(t *testing.T) {
	f := mustFormat(t, record.Options{
		Style: record.DebeziumRouter, Debezium: record.Debezium{Placement: " type:header , aggregatetype:header:kind "},
	})
	r, err := f.Record(order(), new(record.Arena))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := headerText(r), "id=0195c3a4-7e00-7abc-8def-0123456789ab type=OrderPlaced kind=order"; got != want {
		t.Errorf("headers %s, want %s", got, want)
	}
}
