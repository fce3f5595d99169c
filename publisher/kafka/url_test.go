package kafka_test

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]kafka.Config{
		"kafka://h":               {Brokers: []string{"h:9092"}},
		"kafka://h:1,h2,[::1]:3/": {Brokers: []string{"h:1", "h2:9092", "[::1]:3"}},
		"kafka://[::1]":           {Brokers: []string{"[::1]:9092"}},
		"kafka+tls://h":           {Brokers: []string{"h:9092"}, TLS: true},
		"kafka://u%40x:p%3A%40w@h?sasl=scram-sha-256": {Brokers: []string{"h:9092"},
			SASL: "scram-sha-256", User: "u@x", Password: "p:@w"},
		"kafka://h?sasl=plain&user=u&password_file=/f": {Brokers: []string{"h:9092"},
			SASL: "plain", User: "u", PasswordFile: "/f"},
		"kafka://h?tls=true&ca=/c&cert=/d&key=/k&server_name=n&insecure=true": {Brokers: []string{"h:9092"},
			TLS: true, CAFile: "/c", CertFile: "/d", KeyFile: "/k", ServerName: "n", Insecure: true},
		"kafka://h?compression=zstd&client_id=c&lanes=2&window_records=3&window_bytes=4&max_message_bytes=5&max_request_bytes=3000000": {
			Brokers: []string{"h:9092"}, Compression: "zstd", ClientID: "c",
			Lanes: 2, WindowRecords: 3, WindowBytes: 4, MaxMessageBytes: 5, MaxRequestBytes: 3_000_000},
		"kafka://h?create_topics=true&partitions=6&replication_factor=3": {Brokers: []string{"h:9092"},
			CreateTopics: true, Partitions: 6, ReplicationFactor: 3},
	} {
		got, err := kafka.ParseURL(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseURL(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "begins with kafka://",
		"amqp://h":                     "begins with kafka://",
		"kafka://":                     `broker address ""`,
		"kafka://h,":                   `broker address ""`,
		"kafka://h:x":                  `broker address "h:x"`,
		"kafka://h:0":                  `broker address "h:0"`,
		"kafka://h:70000":              `broker address "h:70000"`,
		"kafka://::1":                  `broker address "::1"`,
		"kafka://h/topic":              `broker address "h/topic"`,
		"kafka://u:c4nary%zz@h":        "not percent-encoded",
		"kafka://h?comprssion=lz4":     `unknown kafka option "comprssion": did you mean "compression"? known are ca, cert, client_id, compression`,
		"kafka://h?Lanes=2":            `did you mean "lanes"?`,
		"kafka://h?xyzzy=1":            `unknown kafka option "xyzzy": known are`,
		"kafka://h?lanes=0":            `kafka option lanes="0": want a whole number above zero`,
		"kafka://h?lanes=65":           "lanes 65 is not within 1 and 64",
		"kafka://h?lanes=1&lanes=2":    "more than once",
		"kafka://h?tls=maybe":          "want true or false",
		"kafka://h?compression=br":     `compression "br" is none of none, gzip`,
		"kafka://h?sasl=gssapi&user=u": `sasl "gssapi" is none of plain`,
		"kafka://h?sasl=plain":         "sasl plain needs a user",
		"kafka://u:c4nary@h":           "add sasl=",
		"kafka://u:c4nary@h?password_file=f&sasl=plain":         "both a password and a password file",
		"kafka://h?tls=true&cert=c":                             "cert and key are given together",
		"kafka://h?ca=c":                                        "need tls=true",
		"kafka://h?insecure=true":                               "need tls=true",
		"kafka://h?partitions=3":                                "need create_topics=true",
		"kafka://h?replication_factor=40000&create_topics=true": "out of range",
		"kafka://h?a=%zz":                                       "not key=value",
	} {
		_, err := kafka.ParseURL(in)
		var config *publisher.ConfigError
		if !errors.As(err, &config) || config.Code != "config" || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseURL(%q): %v, want a ConfigError with %q", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "c4nary") {
			t.Errorf("ParseURL(%q) prints the password: %v", in, err)
		}
	}
}

// TestValidateJoins names all mistakes at once.
func TestValidateJoins(t *testing.T) {
	err := kafka.Config{Compression: "x", SASL: "y"}.Validate()
	for _, want := range []string{"no broker", `"x"`, `"y"`, "needs a user"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestString(t *testing.T) {
	for in, want := range map[string]string{
		"kafka://h":                           "kafka://h:9092",
		"kafka://us%2Fer:c4nary@h?sasl=plain": "kafka://us%2Fer:xxxxx@h:9092?sasl=plain",
		"kafka://h?user=u&password_file=/run/f&sasl=plain&tls=1&lanes=2": "kafka+tls://u@h:9092?lanes=2&password_file=%2Frun%2Ff&sasl=plain",
	} {
		c, err := kafka.ParseURL(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.String(); got != want {
			t.Errorf("String of %s = %s, want %s", in, got, want)
		}
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("open", "config", c, "in", []kafka.Config{c})
		for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", c, c, c, c), fmt.Sprintf("%+v", &c), log.String()} {
			if strings.Contains(s, "c4nary") {
				t.Errorf("%s prints the password", s)
			}
		}
	}
}

// FuzzParseURL: no panic, and what was read prints as what reads the same.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"kafka://h:1,h2?lanes=2", "kafka+tls://u:p@[::1]?sasl=plain", "kafka://%zz@h", "kafka://h?&=;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := kafka.ParseURL(s)
		if err != nil {
			var config *publisher.ConfigError
			if !errors.As(err, &config) {
				t.Errorf("error %T", err)
			}
			return
		}
		again, err := kafka.ParseURL(c.String())
		if c.Password != "" {
			c.Password = "xxxxx"
		}
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%q reads as %+v, prints as %q, which reads as %+v, %v", s, c, c.String(), again, err)
		}
	})
}
