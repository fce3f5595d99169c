package kafka_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outboxd/outboxd/publisher/kafka"
)

// rotation is a broker whose certificates change, and a client's files.
type rotation struct {
	t       testing.TB
	brokers []string
	server  atomic.Pointer[tls.Config]
	ca      string // what the client trusts
	cert    string // what the client shows
	key     string

	mu    sync.Mutex
	conns []net.Conn
}

// newRotation starts a broker that insists on a client's certificate.
func newRotation(t testing.TB) *rotation {
	dir := t.TempDir()
	r := &rotation{t: t, ca: filepath.Join(dir, "ca"), cert: filepath.Join(dir, "cert"), key: filepath.Join(dir, "key")}
	r.rotateBroker()
	r.brokers = fakeCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "events"), kfake.TLS(&tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.server.Load(), nil },
	})).ListenAddrs()
	return r
}

// rotateBroker gives the broker a certificate that nobody trusts yet, and has it
// trust that one alone. It returns the certificate's files.
func (r *rotation) rotateBroker() (certFile, keyFile string) {
	cert, certFile, keyFile := certificate(r.t)
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	r.server.Store(&tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	return certFile, keyFile
}

func (r *rotation) copy(from, to string) {
	r.t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// rotate changes the broker's certificate and the client's files.
func (r *rotation) rotate() {
	certFile, keyFile := r.rotateBroker()
	r.copy(certFile, r.ca)
	r.copy(certFile, r.cert)
	r.copy(keyFile, r.key)
}

func (r *rotation) config() kafka.Config {
	return kafka.Config{
		Brokers: r.brokers, TLS: true, CAFile: r.ca, CertFile: r.cert, KeyFile: r.key,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				r.mu.Lock()
				r.conns = append(r.conns, conn)
				r.mu.Unlock()
			}
			return conn, err
		},
	}
}

// cut ends all connections but the oldest ones, as a broker that restarts does.
func (r *rotation) cut(spare int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns[spare:] {
		_ = conn.Close()
	}
	r.conns = r.conns[:spare]
}

// TestRotation: the next connection of the same session goes by the files as
// they are then.
func TestRotation(t *testing.T) {
	r := newRotation(t)
	r.rotate()
	s := openSession(t, r.config())
	for range 2 {
		if err := s.wait(s.publish("events", "k", nil)); err != nil {
			t.Fatal(err)
		}
		r.rotate()
		r.cut(0)
	}
	if err := s.wait(s.publish("events", "k", nil)); err != nil {
		t.Fatal(err)
	}
}

// TestUnusableFile: files that do not serve end the session, are named by the
// next, and are forgiven when they are mended.
func TestUnusableFile(t *testing.T) {
	for name, f := range map[string]struct {
		spoil func(*rotation)
		text  string
	}{
		"half an authority": {func(r *rotation) { half(t, r.ca) }, "no certificate in"},
		"half a key":        {func(r *rotation) { half(t, r.key) }, "must hold whole PEM blocks"},
		"authority is late": {func(r *rotation) { r.rotateBroker() }, "?ca=FILE"},
		"client is late": {func(r *rotation) {
			certFile, _ := r.rotateBroker()
			r.copy(certFile, r.ca)
		}, "?cert=FILE&key=FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRotation(t)
			r.rotate()
			s := openSession(t, r.config())
			if err := s.wait(s.publish("events", "k", nil)); err != nil {
				t.Fatal(err)
			}
			f.spoil(r)
			r.cut(0)
			if err := s.wait(s.publish("events", "k", nil)); err == nil {
				t.Error("published without a connection")
			}
			err := publishOne(t, r.config())
			wantConfigError(t, err, "config", f.text)
			r.rotate()
			if err := publishOne(t, r.config()); err != nil {
				t.Errorf("mended: %v", err)
			}
		})
	}
}

// TestOneBrokerUnreachable: another connection that lives on does not hide that
// a lane's cannot be made.
func TestOneBrokerUnreachable(t *testing.T) {
	r := newRotation(t)
	r.rotate()
	s := openSession(t, r.config())
	if err := s.wait(s.publish("events", "k", nil)); err != nil {
		t.Fatal(err)
	}
	half(t, r.ca)
	r.cut(2) // the oldest are those that ask for topics
	if err := s.wait(s.publish("events", "k", nil)); err == nil {
		t.Error("published without a connection")
	}
}

// half leaves the first half of file, as someone who is writing it does.
func half(t testing.TB, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, b[:len(b)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b[:len(b)/2]), "END") {
		t.Fatal("not half a file")
	}
}
