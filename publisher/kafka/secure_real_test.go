//go:build !embedded

package kafka_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// The listeners of a secured broker.
const (
	mutualTLS = "MUTUAL"  // wants a client's certificate
	overdue   = "OVERDUE" // its certificate has expired
	scram     = "SCRAM"
	tokens    = "TOKENS"
)

const (
	scramPassword = "canary-of-the-user"
	maxReauth     = 3 * time.Second // a login with a token is good for no longer
)

// secured is a real broker that speaks TLS alone, but for the test itself.
type secured struct {
	*devenv.Kafka
	t         *testing.T
	authority *devtest.Authority // of the broker and of its clients
	issuer    *issuer
}

func newSecured(t *testing.T) *secured {
	s := &secured{t: t, authority: devtest.NewAuthority(t), issuer: newIssuer(t)}
	const login = "org.apache.kafka.common.security."
	properties := map[string]string{
		"num.network.threads":                                                 "1",
		"listener.name.mutual.ssl.client.auth":                                "required",
		"listener.name.scram.sasl.enabled.mechanisms":                         "SCRAM-SHA-512",
		"listener.name.scram.scram-sha-512.sasl.jaas.config":                  login + "scram.ScramLoginModule required;",
		"listener.name.tokens.sasl.enabled.mechanisms":                        "OAUTHBEARER",
		"listener.name.tokens.oauthbearer.sasl.jaas.config":                   login + "oauthbearer.OAuthBearerLoginModule required;",
		"listener.name.tokens.sasl.oauthbearer.jwks.endpoint.url":             s.issuer.URL + keysPath,
		"listener.name.tokens.sasl.oauthbearer.expected.audience":             audience,
		"listener.name.tokens.sasl.oauthbearer.clock.skew.seconds":            "0",
		"listener.name.tokens.oauthbearer.sasl.server.callback.handler.class": login + "oauthbearer.OAuthBearerValidatorCallbackHandler",
		"listener.name.tokens.oauthbearer.connections.max.reauth.ms":          strconv.Itoa(int(maxReauth.Milliseconds())),
	}
	maps.Copy(properties, s.keys("", s.authority, time.Now().Add(time.Hour)))
	maps.Copy(properties, s.keys("listener.name.overdue.", s.authority, time.Now().Add(-time.Minute)))
	var err error
	s.Kafka, err = devenv.StartKafka(t.Context(), devenv.KafkaOptions{
		Properties: properties,
		Listeners:  map[string]string{mutualTLS: "SSL", overdue: "SSL", scram: "SASL_SSL", tokens: "SASL_SSL"},
		Flags:      []string{"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + s.issuer.URL + keysPath},
	})
	s.must(err)
	t.Cleanup(func() { _ = s.Close() })
	admin := s.admin()
	_, err = admin.CreateTopic(t.Context(), 1, 1, nil, "events")
	s.must(err)
	_, err = admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "relay", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: scramPassword}})
	s.must(err)
	return s
}

func (s *secured) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *secured) admin() *kadm.Client {
	client := newClient(s.t, s.Brokers())
	s.t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// keys are the properties by which a listener has a certificate of an authority
// and believes in that authority's clients.
func (s *secured) keys(prefix string, a *devtest.Authority, end time.Time) map[string]string {
	s.t.Helper()
	text := func(file string) string {
		b, err := os.ReadFile(file)
		s.must(err)
		return string(b)
	}
	cert, key := a.Server(end)
	return map[string]string{
		prefix + "ssl.keystore.type":              "PEM",
		prefix + "ssl.keystore.certificate.chain": text(cert),
		prefix + "ssl.keystore.key":               text(key),
		prefix + "ssl.truststore.type":            "PEM",
		prefix + "ssl.truststore.certificates":    text(a.File),
	}
}

// config is for a listener, with all that it asks for.
func (s *secured) config(listener string) kafka.Config {
	c := kafka.Config{Brokers: []string{s.Listener(listener)}, TLS: true, CAFile: s.authority.File, Lanes: 1}
	switch listener {
	case mutualTLS:
		c.CertFile, c.KeyFile = s.authority.Client("relay", time.Now().Add(time.Hour))
	case scram:
		c.SASL, c.User, c.Password = "scram-sha-512", "relay", scramPassword
	case tokens:
		c.SASL, c.OAuthClientID, c.OAuthEndpoint = "oauthbearer", "relay", s.issuer.URL+tokenPath
		c.OAuthClientSecretFile = secretFile(s.t, tokenSecret)
	}
	return c
}

// TestSecureReal: what a real broker refuses is named, and no secret with it.
func TestSecureReal(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	t.Run("refusals", s.refusals)
	t.Run("renewal", s.renewal)
	t.Run("rotation", s.rotation)
}

func (s *secured) refusals(t *testing.T) {
	stranger, impostor := devtest.NewAuthority(t), newIssuer(t)
	hour := time.Now().Add(time.Hour)
	token := func(i *issuer, audience string, life time.Duration) func(*kafka.Config) {
		return func(c *kafka.Config) {
			c.OAuthEndpoint, c.OAuthClientID, c.OAuthClientSecretFile = "", "", ""
			c.OAuthTokenFile = secretFile(t, i.token(audience, life))
		}
	}
	for _, f := range []struct {
		name, listener string
		change         func(*kafka.Config)
		code, text     string // empty: it publishes
	}{
		{"by address", mutualTLS, func(*kafka.Config) {}, "", ""},
		{"by name", mutualTLS, func(c *kafka.Config) { c.ServerName = "service.test" }, "", ""},
		{"wrong name", mutualTLS, func(c *kafka.Config) { c.ServerName = "other.test" }, "config", "?server_name="},
		{"wrong authority", mutualTLS, func(c *kafka.Config) { c.CAFile = stranger.File }, "config", "?ca=FILE"},
		{"system's authorities", scram, func(c *kafka.Config) { c.CAFile = "" }, "config", "?ca=FILE"},
		{"expired broker", overdue, func(*kafka.Config) {}, "config", "renew it at the broker"},
		{"no client certificate", mutualTLS, func(c *kafka.Config) { c.CertFile, c.KeyFile = "", "" }, "config", "?cert=FILE"},
		{"strange client", mutualTLS, func(c *kafka.Config) { c.CertFile, c.KeyFile = stranger.Client("relay", hour) }, "config", "?cert=FILE"},
		{"expired client", mutualTLS, func(c *kafka.Config) {
			c.CertFile, c.KeyFile = s.authority.Client("relay", time.Now().Add(-time.Minute))
		}, "config", "?cert=FILE"},
		{"password", scram, func(*kafka.Config) {}, "", ""},
		{"wrong password", scram, func(c *kafka.Config) { c.Password = "canary-wrong" }, "auth", "check ?sasl="},
		{"unknown user", scram, func(c *kafka.Config) { c.User = "nobody" }, "auth", "check ?sasl="},
		{"other mechanism", scram, func(c *kafka.Config) { c.SASL = "plain" }, "auth", "check ?sasl="},
		{"client's secret", tokens, func(*kafka.Config) {}, "", ""},
		{"wrong secret", tokens, func(c *kafka.Config) { c.OAuthClientSecretFile = secretFile(t, "canary-wrong") }, "auth", "invalid_client"},
		{"token", tokens, token(s.issuer, audience, time.Hour), "", ""},
		{"expired token", tokens, token(s.issuer, audience, -time.Minute), "auth", "kafka refuses the token"},
		{"token of another", tokens, token(impostor, audience, time.Hour), "auth", "kafka refuses the token"},
		{"token for another", tokens, token(s.issuer, "elsewhere", time.Hour), "auth", "kafka refuses the token"},
	} {
		t.Run(f.name, func(t *testing.T) {
			c := s.config(f.listener)
			f.change(&c)
			err := publishOne(t, c)
			switch {
			case f.code != "":
				wantConfigError(t, err, f.code, f.text)
			case err != nil:
				t.Fatal(err)
			}
			// All tokens begin with the same header.
			if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "eyJ")) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// renewal: the broker wants a new login every three seconds, until the first
// token would have been refused. Nothing is lost, and nothing comes twice.
func (s *secured) renewal(t *testing.T) {
	topic := newTopic(t, s.Brokers(), 1)
	before := s.issuer.asked.Load()
	session := openSession(t, s.config(tokens))
	for end := time.Now().Add(tokenLife + maxReauth); time.Now().Before(end); {
		if err := session.wait(session.publish(topic, "k", nil)); err != nil {
			t.Fatal(err)
		}
	}
	session.finish()
	s.wantAll(t, topic, session)
	if n := s.issuer.asked.Load() - before; n < 3 {
		t.Errorf("asked for %d tokens", n)
	}
}

// rotation: the broker's certificate and all that it believes in are changed
// while a publisher lives, and the publisher's files with it.
func (s *secured) rotation(t *testing.T) {
	topic := newTopic(t, s.Brokers(), 1)
	c := s.config(mutualTLS)
	dir := t.TempDir()
	r := &rotation{t: t, brokers: c.Brokers, ca: dir + "/ca", cert: dir + "/cert", key: dir + "/key"}
	files := func(ca, cert, key string) {
		r.copy(ca, r.ca)
		r.copy(cert, r.cert)
		r.copy(key, r.key)
	}
	files(c.CAFile, c.CertFile, c.KeyFile)
	session := openSession(t, r.config())
	s.must(session.wait(session.publish(topic, "k", nil)))

	next := devtest.NewAuthority(t)
	s.replaceKeys(next)
	cert, key := next.Client("relay", time.Now().Add(time.Hour))
	files(next.File, cert, key)
	r.cut(0)
	s.must(session.wait(session.publish(topic, "k", nil)))
	session.finish()
	s.wantAll(t, topic, session)
}

// replaceKeys gives the listener with mutual TLS a certificate of another
// authority, and returns when it is shown.
func (s *secured) replaceKeys(a *devtest.Authority) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	var change []kadm.AlterConfig
	for name, value := range s.keys("listener.name.mutual.", a, time.Now().Add(time.Hour)) {
		change = append(change, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: kadm.StringPtr(value)})
	}
	answers, err := s.admin().AlterBrokerConfigs(ctx, change, 1)
	s.must(err)
	s.must(answers[0].Err)
	authority, err := os.ReadFile(a.File)
	s.must(err)
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: x509.NewCertPool()}}
	dialer.Config.RootCAs.AppendCertsFromPEM(authority)
	for {
		conn, err := dialer.DialContext(ctx, "tcp", s.Listener(mutualTLS))
		if err == nil {
			_ = conn.Close()
			return
		}
		s.must(ctx.Err())
	}
}

// wantAll fails unless a topic holds what the session has published, in order.
func (s *secured) wantAll(t *testing.T, topic string, session *session) {
	t.Helper()
	if n := session.acked(); n != int(session.n) {
		t.Errorf("%d of %d records are acked", n, session.n)
	}
	var want, got []string
	for n := range session.n {
		want = append(want, strconv.FormatUint(n+1, 10))
	}
	for _, r := range read(t, s.Brokers(), topic) {
		got = append(got, string(r.Value))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the topic holds %d records, want all %d, once and in order", len(got), len(want))
	}
}
