//go:build !embedded

package rabbitmq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

// authority is a certificate authority of a test's own.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, dir, name string) *authority {
	a := &authority{t: t, dir: dir}
	a.cert, a.key = a.issue(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue writes NAME.pem and NAME.key, readable by the node's user.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, parentKey := a.cert, a.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	a.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	a.must(err)
	a.must(os.WriteFile(a.file(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	a.must(os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o644))
	cert, err := x509.ParseCertificate(der)
	a.must(err)
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	// The node runs as another user.
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ca := newAuthority(t, dir, "ca")
	other := newAuthority(t, dir, "other-ca")
	ca.issue("server", &x509.Certificate{Subject: pkix.Name{CommonName: "broker"}, DNSNames: []string{"broker.test"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	ca.issue("client", &x509.Certificate{Subject: pkix.Name{CommonName: "outboxd"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ca.must(err)
	addr := listener.Addr().String()
	ca.must(listener.Close())
	ca.issue("expired", &x509.Certificate{Subject: pkix.Name{CommonName: "outboxd"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotAfter: time.Now().Add(-time.Minute)})
	node := startNode(t, fmt.Sprintf("listeners.ssl.1 = %s\nssl_options.cacertfile = %s\nssl_options.certfile = %s\nssl_options.keyfile = %s\n"+
		"ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
		addr, ca.file("ca.pem"), ca.file("server.pem"), ca.file("server.key")))
	c := newCorner(t, node.URL(), "quorum")
	secure := func(options string) rabbitmq.Config {
		t.Helper()
		config, err := rabbitmq.ParseURL("amqps://guest:guest@" + addr + "/?exchange=" + c.exchange + options)
		ca.must(err)
		return config
	}
	trust := "&tls_ca=" + ca.file("ca.pem")
	client := "&tls_cert=" + ca.file("client.pem") + "&tls_key=" + ca.file("client.key")
	for _, f := range []struct{ name, options, class, text string }{
		{"by address", trust + client, "", ""},
		{"by name", trust + client + "&tls_server_name=broker.test", "", ""},
		{"wrong authority", "&tls_ca=" + other.file("other-ca.pem") + client, "config", "unknown authority"},
		{"system's authorities", client, "config", "unknown authority"},
		{"wrong name", trust + client + "&tls_server_name=elsewhere.test", "config", "elsewhere.test"},
		{"no client certificate", trust, "config", "certificate required"},
		{"expired client certificate", trust + "&tls_cert=" + ca.file("expired.pem") + "&tls_key=" + ca.file("expired.key"), "config", "expired"},
		{"missing file", "&tls_ca=" + ca.file("nowhere.pem") + client, "config", "nowhere.pem"},
		{"not a certificate", "&tls_ca=" + ca.file("ca.key") + client, "config", "holds no PEM certificate"},
		{"key of another", trust + "&tls_cert=" + ca.file("client.pem") + "&tls_key=" + ca.file("server.key"), "config", "tls_cert"},
	} {
		t.Run(f.name, func(t *testing.T) {
			got := newOutcomes(t)
			p, err := rabbitmq.Open(t.Context(), secure(f.options), got.done, nil)
			if classOf(err) != f.class || err != nil && !strings.Contains(err.Error(), f.text) {
				t.Fatalf("open: %v, want class %q with %q", err, f.class, f.text)
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
			if counts := got.count(); counts[""] != n || len(c.messages(c.queue)) != n {
				t.Errorf("outcomes %v", counts)
			}
		})
	}
	t.Run("rotation", func(t *testing.T) { rotate(t, ca, secure(trust+client)) })
}

// rotate spoils the files of a configuration that works, one after the other:
// each is named, and forgiven by the next session when it is mended.
func rotate(t *testing.T, ca *authority, config rabbitmq.Config) {
	for file, text := range map[string]string{"ca.pem": "holds no PEM certificate", "client.pem": "tls_cert", "client.key": "tls_key"} {
		whole, err := os.ReadFile(ca.file(file))
		ca.must(err)
		for _, content := range [][]byte{whole[:len(whole)/2], whole} {
			ca.must(os.WriteFile(ca.file(file), content, 0o644))
			p, err := rabbitmq.Open(t.Context(), config, func(*publisher.Record, error) {}, nil)
			if err == nil {
				ca.must(shut(t, p, 30*time.Second))
			}
			switch cut := len(content) < len(whole); {
			case cut && (classOf(err) != "config" || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), ca.file(file))):
				t.Errorf("half of %s: %v, want a config error with %q and the file's name", file, err, text)
			case !cut && err != nil:
				t.Errorf("%s, mended: %v", file, err)
			}
		}
	}
}
