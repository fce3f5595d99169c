package rabbitmq_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		url  string
		want rabbitmq.Config
	}{
		{"amqp://h", rabbitmq.Config{Hosts: []string{"h:5672"}, Exchange: "outbox"}},
		{"amqp://h/", rabbitmq.Config{Hosts: []string{"h:5672"}, Exchange: "outbox"}},
		{"amqps://h", rabbitmq.Config{Hosts: []string{"h:5671"}, Exchange: "outbox", TLS: true}},
		{"amqp://u:p@h:1,h2:2,h3/shop", rabbitmq.Config{
			Hosts: []string{"h:1", "h2:2", "h3:5672"}, VHost: "shop", User: "u", Password: "p", Exchange: "outbox"}},
		{"amqp://u%40x:p%2F%3A%25@h/%2F", rabbitmq.Config{
			Hosts: []string{"h:5672"}, VHost: "/", User: "u@x", Password: "p/:%", Exchange: "outbox"}},
		{"amqp://u:p:q@h/a%2Fb", rabbitmq.Config{Hosts: []string{"h:5672"}, VHost: "a/b", User: "u", Password: "p:q", Exchange: "outbox"}},
		{"amqp://[::1]:99,[fe80::1]/", rabbitmq.Config{Hosts: []string{"[::1]:99", "[fe80::1]:5672"}, Exchange: "outbox"}},
		{"amqp://h?exchange=", rabbitmq.Config{Hosts: []string{"h:5672"}}},
		{"amqp://h/v?exchange=shop.events&ordering=pipelined&unroutable=discard&persistent=false&channels=4" +
			"&window=100&window_bytes=2MiB&max_message_size=64KiB&heartbeat=5&connect_timeout=3s&write_timeout=1m&confirm_timeout=2m",
			rabbitmq.Config{Hosts: []string{"h:5672"}, VHost: "v", Exchange: "shop.events", Ordering: rabbitmq.Pipelined,
				Unroutable: rabbitmq.Discard, Transient: true, Channels: 4, Window: 100, WindowBytes: 2 << 20,
				MaxMessageSize: 64 << 10, Heartbeat: 5 * time.Second, ConnectTimeout: 3 * time.Second, WriteTimeout: time.Minute, ConfirmTimeout: 2 * time.Minute}},
		{"amqp://h?persistent=true&ordering=strict&unroutable=hold", rabbitmq.Config{
			Hosts: []string{"h:5672"}, Exchange: "outbox", Ordering: rabbitmq.Strict, Unroutable: rabbitmq.Hold}},
		{"amqps://h?tls_ca=ca.pem&tls_cert=c.pem&tls_key=k.pem&tls_server_name=broker", rabbitmq.Config{
			Hosts: []string{"h:5671"}, Exchange: "outbox", TLS: true, CAFile: "ca.pem", CertFile: "c.pem", KeyFile: "k.pem", ServerName: "broker"}},
	} {
		got, err := rabbitmq.ParseURL(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %#v\nwant %#v", c.url, plain(got), plain(c.want))
		}
	}
}

// plain is a Config that prints all its fields.
type plain rabbitmq.Config

func (plain) String() string { return "" }

func TestParseURLErrors(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"kafka://h", "neither with amqp:// nor with amqps://"},
		{"h:5672", "neither with amqp://"},
		{"amqp://", "no host"},
		{"amqp://h,,h2", "no host"},
		{"amqp://h:0", `port of host "h"`},
		{"amqp://h:65536", `port of host "h"`},
		{"amqp://h:amqp", `port of host "h"`},
		{"amqp://h:1:2", "no host, or one that is not host:port"},
		{"amqp://u:pass/secret@h", "an @ stands behind the host"},
		{"amqp://u:pass?secret@h", "an @ stands behind the host"},
		{"amqp://u:%zzsecret@h", "user or password is not percent-encoded"},
		{"amqp://h/a/b", `vhost "a/b"`},
		{"amqp://h/%zz", `vhost "%zz"`},
		{"amqp://h?%zz", "options behind ?"},
		{"amqp://h?echange=x", `unknown option "echange", did you mean exchange (known: channels, confirm_timeout,`},
		{"amqp://h?order=strict", `unknown option "order" (known:`},
		{"amqp://h?cacertfile=x", `unknown option "cacertfile", did you mean tls_ca`},
		{"amqp://h?connection_timeout=10", `did you mean connect_timeout`},
		{"amqp://h?channels=1&channels=2", "option channels is given 2 times"},
		{"amqp://h?channels=0", `option channels="0": want a number`},
		{"amqp://h?channels=1000", "channels is 1000, want 1 to 256"},
		{"amqp://h?window=many", `option window="many"`},
		{"amqp://h?window=-1", `option window="-1"`},
		{"amqp://h?ordering=loose", `ordering is "loose", want strict or pipelined`},
		{"amqp://h?unroutable=drop", `unroutable is "drop", want hold, discard or park`},
		{"amqp://h?persistent=no", `option persistent="no": want true or false`},
		{"amqp://h?heartbeat=0", `option heartbeat="0"`},
		{"amqp://h?heartbeat=10ms", "heartbeat is 10ms, want 1s to 65535s"},
		{"amqp://h?tls_ca=x", "TLS options without TLS: use amqps://"},
		{"amqps://h?tls_cert=x", "needs both tls_cert and tls_key"},
		{"amqp://h?exchange=" + strings.Repeat("x", 256), "exchange name has 256 bytes"},
	} {
		_, err := rabbitmq.ParseURL(c.url)
		var config *publisher.ConfigError
		if !errors.As(err, &config) || config.Code != "config" {
			t.Errorf("%s: %v, want a ConfigError with code config", c.url, err)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not contain %q", c.url, err, c.want)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password: %v", c.url, err)
		}
	}
}

func TestParseURLNamesEverythingAtOnce(t *testing.T) {
	_, err := rabbitmq.ParseURL("amqp://h:x?colour=red&chanels=2&persistent=maybe")
	for _, want := range []string{"port of host", `"colour"`, `"chanels", did you mean channels`, "persistent"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not contain %q", err, want)
		}
	}
}

func TestConfigNeverPrintsThePassword(t *testing.T) {
	c, err := rabbitmq.ParseURL("amqps://ann:s3cr3t@h:1,h2/a%2Fb?exchange=shop")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("open", "config", c)
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, c), fmt.Sprintf("%+v", &c), log.String()} {
		if strings.Contains(text, "s3cr3t") {
			t.Errorf("the password is in %s", text)
		}
	}
	if got, want := c.String(), "amqps://ann@h:1,h2:5671/a%2Fb?exchange=shop"; got != want {
		t.Errorf("prints %s, want %s", got, want)
	}
}

func TestConfigValidate(t *testing.T) {
	if err := (rabbitmq.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "no host") {
		t.Errorf("a configuration without host: %v", err)
	}
	if err := (rabbitmq.Config{Hosts: []string{"h:1"}}).Validate(); err != nil {
		t.Errorf("a host is enough: %v", err)
	}
	if err := (rabbitmq.Config{Hosts: []string{"h:1"}, WriteTimeout: -1}).Validate(); err == nil {
		t.Error("a negative timeout is accepted")
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("amqp://u:p@h:1,h2/v?channels=2")
	f.Add("amqps://[::1]/%2F?tls_ca=x&window_bytes=1MiB")
	f.Add("amqp://@:?=&=")
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := rabbitmq.ParseURL(raw)
		var config *publisher.ConfigError
		if err != nil {
			if !errors.As(err, &config) {
				t.Fatalf("%q: %v is no ConfigError", raw, err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("%q is parsed but not valid: %v", raw, err)
		}
		for _, h := range c.Hosts {
			if _, _, err := net.SplitHostPort(h); err != nil {
				t.Fatalf("%q: host %q: %v", raw, h, err)
			}
		}
	})
}
