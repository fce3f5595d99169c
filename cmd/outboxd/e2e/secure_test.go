package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// identity is what a relay believes in and shows: files that the test replaces.
type identity struct {
	t             *testing.T
	ca, cert, key string
}

func newIdentity(t *testing.T) identity {
	dir := t.TempDir()
	return identity{t, filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")}
}

// renew replaces the files by those of a user of an authority.
func (i identity) renew(a *devtest.Authority, user string) {
	i.t.Helper()
	cert, key := a.Client(user, time.Now().Add(time.Hour))
	for to, from := range map[string]string{i.ca: a.File, i.cert: cert, i.key: key} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, content, 0o600)
		}
		if err != nil {
			i.t.Fatal(err)
		}
	}
}

// tlsOf is the configuration of a broker of an authority, that insists on the
// certificates of its clients.
func tlsOf(t *testing.T, a *devtest.Authority) *tls.Config {
	t.Helper()
	certFile, keyFile := a.Server(time.Now().Add(time.Hour))
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(a.File)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// clientcert has a server let a role in with a certificate and a password only,
// from the next start on.
func (s *site) clientcert(server *devenv.Postgres, role string) {
	s.t.Helper()
	s.exec("ALTER SYSTEM SET ssl = on")
	s.exec("ALTER SYSTEM SET ssl_ca_file = 'root.crt'")
	hba := filepath.Join(server.DataDir(), "pg_hba.conf")
	others, err := os.ReadFile(hba)
	if err == nil {
		lines := "hostssl all " + role + " 127.0.0.1/32 scram-sha-256 clientcert=verify-full\nhost all " + role + " all reject\n"
		err = os.WriteFile(hba, append([]byte(lines), others...), 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestEverythingSecured: a relay with certificates and passwords on both sides,
// all from files. All certificates are replaced, those of both servers and its
// own, while it runs; it goes on, and prints no password.
func TestEverythingSecured(t *testing.T) {
	t.Parallel()
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	s := newSite(t, server.URL("postgres", "postgres"))
	role := "relay_" + s.pipeline
	s.clientcert(server, role)

	var broker atomic.Pointer[tls.Config]
	cluster := devtest.Kfake(t, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "relay", "broker-secret"), kfake.TLS(&tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return broker.Load(), nil },
	}))
	mine, password := newIdentity(t), filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("broker-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	replace := func() { // the same authority stands behind both
		t.Helper()
		if err := server.Stop(t.Context(), "fast"); err != nil {
			t.Fatal(err)
		}
		a := devtest.NewAuthority(t)
		a.Install(server.DataDir(), time.Now().Add(time.Hour))
		broker.Store(tlsOf(t, a))
		mine.renew(a, role)
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	replace()
	database, err := url.Parse(s.relay)
	if err != nil {
		t.Fatal(err)
	}
	database.RawQuery = url.Values{"sslrootcert": {mine.ca}, "sslcert": {mine.cert}, "sslkey": {mine.key}}.Encode()
	options := url.Values{"sasl": {"scram-sha-512"}, "password_file": {password}, "ca": {mine.ca}, "cert": {mine.cert}, "key": {mine.key}}
	r := discreet(startRelay(t, "--database", database.String(), "--pipeline", s.pipeline, "--topic", "events", "--create-topics",
		"--broker", "kafka+tls://relay@"+strings.Join(cluster.Brokers(), ",")+"?"+options.Encode()))
	s.write(1, 3)
	r.says(http.StatusOK, "streaming")
	arrived := func(n int64) {
		t.Helper()
		eventually(t, 30*time.Second, "the events arrive", func() bool { return mine.stored(cluster) >= n })
	}
	arrived(3)
	replace()
	s.write(4, 6)
	arrived(6)
	r.says(http.StatusOK, "streaming")
	if n := mine.stored(cluster); n != 6 {
		t.Errorf("%d records are stored, want 6", n)
	}
}

// stored asks a cluster for the number of its records.
func (i identity) stored(cluster *devenv.Kfake) int64 {
	i.t.Helper()
	cert, err := tls.LoadX509KeyPair(i.cert, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers()...), kgo.SASL(scram.Auth{User: "relay", Pass: "broker-secret"}.AsSha512Mechanism()),
		kgo.DialTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true}))
	if err != nil {
		i.t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(i.t.Context(), "events")
	if err != nil {
		i.t.Fatal(err)
	}
	var n int64
	ends.Each(func(o kadm.ListedOffset) { n += max(o.Offset, 0) })
	return n
}
