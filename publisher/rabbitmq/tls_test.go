//go:build !embedded

package rabbitmq_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// secured is a node that takes TLS alone, from clients with a certificate, and
// an exchange. The user relay may write to that, log in by its certificate, and
// nothing else.
type secured struct {
	*corner
	t    *testing.T
	node *devenv.RabbitMQ
	addr string
	dir  string // of the node's files: ca, cert and key
}

func newSecured(t *testing.T, a *devtest.Authority) *secured {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &secured{t: t, addr: listener.Addr().String(), dir: filepath.Dir(a.File)}
	s.must(listener.Close())
	s.install(a, time.Now().Add(time.Hour))
	s.node, err = devenv.StartRabbitMQ(t.Context(), devenv.RabbitMQOptions{
		Config: fmt.Sprintf("listeners.ssl.1 = %s\nssl_options.cacertfile = %s\nssl_options.certfile = %s\nssl_options.keyfile = %s\n"+
			"ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"+
			"auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n",
			s.addr, s.file("ca"), s.file("cert"), s.file("key")),
		Plugins: []string{"rabbitmq_auth_mechanism_ssl"},
	})
	s.must(err)
	t.Cleanup(func() { _ = s.node.Close() })
	s.corner = newCorner(t, s.node.URL(), "quorum")
	s.ctl("add_user", "relay", "right-password")
	s.ctl("set_permissions", "relay", "^$", "^"+s.exchange+"$", "^$")
	return s
}

func (s *secured) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *secured) file(name string) string { return filepath.Join(s.dir, name) }

func (s *secured) ctl(args ...string) {
	s.t.Helper()
	_, err := s.node.Ctl(s.t.Context(), args...)
	s.must(err)
}

// install gives the node's files a certificate of an authority, in whose clients
// it is to believe.
func (s *secured) install(a *devtest.Authority, end time.Time) {
	s.t.Helper()
	cert, key := a.Server(end)
	copyFile(s.t, a.File, s.file("ca"))
	copyFile(s.t, cert, s.file("cert"))
	copyFile(s.t, key, s.file("key"))
}

// replace has the node read its files anew, which it does of itself after two
// minutes.
func (s *secured) replace(a *devtest.Authority, end time.Time) {
	s.t.Helper()
	s.install(a, end)
	s.ctl("eval", "ssl:clear_pem_cache().")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// credentials are what a client shows.
type credentials struct{ user, ca, cert, key, name string }

func (s *secured) config(l credentials) rabbitmq.Config {
	s.t.Helper()
	options := url.Values{"exchange": {s.exchange}}
	for name, value := range map[string]string{"tls_ca": l.ca, "tls_cert": l.cert, "tls_key": l.key, "tls_server_name": l.name} {
		if value != "" {
			options.Set(name, value)
		}
	}
	config, err := rabbitmq.ParseURL("amqps://" + l.user + s.addr + "/?" + options.Encode())
	s.must(err)
	return config
}

// TestTLS: what a real broker or this side refuses is named, and no password
// with it.
func TestTLS(t *testing.T) {
	t.Parallel()
	own, stranger := devtest.NewAuthority(t), devtest.NewAuthority(t)
	s := newSecured(t, own)
	hour, over := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	const password = "relay:right-password@"
	with := func(cert, key string) credentials {
		return credentials{user: password, ca: own.File, cert: cert, key: key}
	}
	good := with(own.Client("relay", hour))
	other := with(own.Client("somebody", hour))
	but := func(change func(*credentials)) credentials {
		l := good
		change(&l)
		return l
	}
	rows := []struct {
		name        string
		login       credentials
		class, text string
	}{
		{"by address", good, "", ""},
		{"by name", but(func(l *credentials) { l.name = "service.test" }), "", ""},
		{"certificate alone", but(func(l *credentials) { l.user = "" }), "", ""},
		{"wrong authority", but(func(l *credentials) { l.ca = stranger.File }), "config", "unknown authority"},
		{"system's authorities", but(func(l *credentials) { l.ca = "" }), "config", "unknown authority"},
		{"wrong name", but(func(l *credentials) { l.name = "elsewhere.test" }), "config", "elsewhere.test"},
		{"no client certificate", credentials{user: password, ca: own.File}, "config", "certificate required"},
		{"strange client certificate", with(stranger.Client("relay", hour)), "config", "unknown certificate authority"},
		{"expired client certificate", with(own.Client("relay", over)), "config", "expired"},
		{"certificate of no user", credentials{ca: own.File, cert: other.cert, key: other.key}, "auth", "refused"},
		{"wrong password", but(func(l *credentials) { l.user = "relay:canary@" }), "auth", "user or password refused"},
		{"missing file", but(func(l *credentials) { l.ca = s.file("nowhere.pem") }), "config", "nowhere.pem"},
		{"not a certificate", but(func(l *credentials) { l.ca = good.key }), "config", "no certificate in"},
		{"key of another", but(func(l *credentials) { l.key = other.key }), "config", "belong together"},
	}
	for _, f := range rows {
		t.Run(f.name, func(t *testing.T) { s.row(t, s.config(f.login), f.class, f.text) })
	}
	t.Run("half a file", func(t *testing.T) { s.halves(t, good) })
	t.Run("rotation", func(t *testing.T) { s.rotate(t, good, stranger) })
	s.replace(own, over)
	t.Run("expired broker", func(t *testing.T) { s.row(t, s.config(good), "config", "expired") })
}

func (s *secured) row(t *testing.T, config rabbitmq.Config, class, text string) {
	got := newOutcomes(t)
	p, err := rabbitmq.Open(t.Context(), config, got.done, nil)
	if classOf(err) != class || err != nil && (!strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "canary")) {
		t.Fatalf("open: %v, want class %q with %q", err, class, text)
	}
	if err != nil {
		return
	}
	const n = 500
	for i := range uint64(n) {
		r := record(i, fmt.Sprint(i%50))
		r.Topic, r.Value = routedKey, make([]byte, 1000)
		mustPublish(t, p, r)
	}
	got.wait(n)
	if err := shut(t, p, 30*time.Second); err != nil {
		t.Error(err)
	}
	if counts := got.count(); counts[""] != n || len(s.messages(s.queue)) != n {
		t.Errorf("outcomes %v", counts)
	}
}

// halves cuts the files of a configuration that works, one after the other: each
// is named, and forgiven by the next session when it is mended.
func (s *secured) halves(t *testing.T, l credentials) {
	config := s.config(l)
	for file, text := range map[string]string{l.ca: "no certificate in", l.cert: "whole PEM blocks", l.key: "whole PEM blocks"} {
		whole, err := os.ReadFile(file)
		s.must(err)
		s.must(os.WriteFile(file, whole[:len(whole)/2], 0o644))
		_, err = rabbitmq.Open(t.Context(), config, func(*publisher.Record, error) {}, nil)
		if classOf(err) != "config" || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), file) {
			t.Errorf("half of %s: %v, want a config error with %q and the file's name", file, err, text)
		}
		s.must(os.WriteFile(file, whole, 0o644))
		s.row(t, config, "", "")
	}
}

// rotate changes the broker's certificate and the authority that it believes in,
// under a publisher: that one goes on, and the next goes by its files as they
// are then.
func (s *secured) rotate(t *testing.T, l credentials, next *devtest.Authority) {
	dir := t.TempDir()
	mine := credentials{user: l.user, ca: dir + "/ca", cert: dir + "/cert", key: dir + "/key"}
	copyFile(t, l.ca, mine.ca)
	copyFile(t, l.cert, mine.cert)
	copyFile(t, l.key, mine.key)
	config := s.config(mine)
	got := newOutcomes(t)
	p, err := rabbitmq.Open(t.Context(), config, got.done, nil)
	s.must(err)
	publish := func(token uint64) {
		r := record(token, "k")
		r.Topic = routedKey
		mustPublish(t, p, r)
	}
	publish(0)
	got.wait(1)
	s.replace(next, time.Now().Add(time.Hour))
	publish(1)
	got.wait(2)
	s.must(shut(t, p, 30*time.Second))

	s.row(t, config, "config", "unknown authority")
	copyFile(t, next.File, mine.ca)
	s.row(t, config, "config", "unknown certificate authority")
	cert, key := next.Client("relay", time.Now().Add(time.Hour))
	copyFile(t, cert, mine.cert)
	copyFile(t, key, mine.key)
	if counts := got.count(); counts[""] != 2 || len(s.messages(s.queue)) != 2 {
		t.Errorf("outcomes %v", counts)
	}
	s.row(t, config, "", "")
}
