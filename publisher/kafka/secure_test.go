package kafka_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// certificate makes a self-signed one for 127.0.0.1 and kafka.test, and returns
// it with the names of its PEM files.
func certificate(t testing.TB) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kafka.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"kafka.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile = write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
	if cert, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return cert, certFile, keyFile
}

// publishOne opens, publishes one record and closes.
func publishOne(t testing.TB, cfg kafka.Config) error {
	t.Helper()
	outcome := make(chan error, 1)
	p, err := kafka.Open(t.Context(), cfg, func(_ *publisher.Record, err error) { outcome <- err }, nil)
	if err != nil {
		return err
	}
	if err := p.Publish(t.Context(), &publisher.Record{Topic: "events", Value: []byte("v")}); err != nil {
		return err
	}
	err = <-outcome
	return errors.Join(err, p.Close(t.Context()))
}

func wantConfigError(t testing.TB, err error, code, text string) {
	t.Helper()
	var config *publisher.ConfigError
	if !errors.As(err, &config) || config.Code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want a ConfigError of code %s with %q", err, code, text)
	}
}

func TestTLS(t *testing.T) {
	cert, certFile, keyFile := certificate(t)
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	brokers := fakeCluster(t, kfake.SeedTopics(1, "events"), kfake.TLS(&tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven,
	})).ListenAddrs()
	open := func(change func(*kafka.Config)) error {
		cfg := kafka.Config{Brokers: brokers, TLS: true, CAFile: certFile}
		change(&cfg)
		return publishOne(t, cfg)
	}
	for name, change := range map[string]func(*kafka.Config){
		"authority":          func(*kafka.Config) {},
		"server name":        func(c *kafka.Config) { c.ServerName = "kafka.test" },
		"client certificate": func(c *kafka.Config) { c.CertFile, c.KeyFile = certFile, keyFile },
		"insecure":           func(c *kafka.Config) { c.CAFile, c.Insecure = "", true },
	} {
		if err := open(change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantConfigError(t, open(func(c *kafka.Config) { c.CAFile = "" }), "config", "?ca=")
	wantConfigError(t, open(func(c *kafka.Config) { c.ServerName = "other" }), "config", "?server_name=")
	wantConfigError(t, open(func(c *kafka.Config) { c.CAFile = keyFile }), "config", "no certificate in")
	wantConfigError(t, open(func(c *kafka.Config) { c.CAFile = "/no/such" }), "config", "open /no/such")
	wantConfigError(t, open(func(c *kafka.Config) { c.CertFile, c.KeyFile = keyFile, keyFile }), "config", "read certificate and key")
}

func TestSASL(t *testing.T) {
	brokers := fakeCluster(t, kfake.SeedTopics(1, "events"), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "p", "secret-1"),
		kfake.Superuser("SCRAM-SHA-256", "s", "secret-2"),
		kfake.Superuser("SCRAM-SHA-512", "t", "secret-3"),
	).ListenAddrs()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret-2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []kafka.Config{
		{SASL: "plain", User: "p", Password: "secret-1"},
		{SASL: "scram-sha-256", User: "s", Password: "secret-2"},
		{SASL: "scram-sha-512", User: "t", Password: "secret-3"},
		{SASL: "scram-sha-256", User: "s", PasswordFile: file},
	} {
		cfg.Brokers = brokers
		if err := publishOne(t, cfg); err != nil {
			t.Errorf("%s: %v", cfg, err)
		}
	}
	err := publishOne(t, kafka.Config{Brokers: brokers, SASL: "plain", User: "p", PasswordFile: "/no/such"})
	wantConfigError(t, err, "config", "read ?password_file=")
}

// TestWrongPassword answers the login as a broker does (the fake one hangs up).
func TestWrongPassword(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism} {
		cluster := fakeCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "p", "secret-1"))
		key := kmsg.SASLAuthenticate
		if code == kerr.UnsupportedSaslMechanism {
			key = kmsg.SASLHandshake
		}
		cluster.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			resp := req.ResponseKind()
			switch resp := resp.(type) {
			case *kmsg.SASLAuthenticateResponse:
				resp.ErrorCode = code.Code
			case *kmsg.SASLHandshakeResponse:
				resp.ErrorCode = code.Code
			}
			return resp, nil, true
		})
		err := publishOne(t, kafka.Config{Brokers: cluster.ListenAddrs(), SASL: "plain", User: "p", Password: "secret-wrong"})
		wantConfigError(t, err, "auth", "check ?sasl=")
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error prints the password: %v", err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	_, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{"127.0.0.1:1", "127.0.0.1:2"}}, nil, nil)
	var config *publisher.ConfigError
	if err == nil || errors.As(err, &config) || !strings.Contains(err.Error(), "reach kafka at 127.0.0.1:1,127.0.0.1:2") {
		t.Errorf("open: %v, want a plain error with the addresses", err)
	}
}

// TestGuardBelowTLS: what the guard refuses has not left the host, encrypted or
// not.
func TestGuardBelowTLS(t *testing.T) {
	cert, certFile, _ := certificate(t)
	brokers := fakeCluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{cert}})).ListenAddrs()
	errLease := errors.New("lease ran out")
	var sent bytes.Buffer
	cfg := kafka.Config{Brokers: brokers, TLS: true, CAFile: certFile,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return &tapped{Conn: conn, sent: &sent}, err
		}}
	_, err := kafka.Open(t.Context(), cfg, nil, func() error { return errLease })
	if err == nil || sent.Len() > 0 {
		t.Errorf("open: %v, %d bytes sent, want an error and none", err, sent.Len())
	}
}

type tapped struct {
	net.Conn
	sent *bytes.Buffer
}

func (c *tapped) Write(p []byte) (int, error) {
	c.sent.Write(p)
	return c.Conn.Write(p)
}
