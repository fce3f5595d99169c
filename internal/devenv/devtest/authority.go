package devtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Authority is a certificate authority of a test's own. Its files are in a
// directory that services may read, whatever user they run as. It is for one
// goroutine at a time.
type Authority struct {
	// File holds its certificate, PEM.
	File string

	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: t.TempDir()}
	for d := a.dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		a.must(os.Chmod(d, 0o755))
	}
	var der []byte
	a.cert, a.key, der = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority of " + t.Name()}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotAfter: time.Now().Add(48 * time.Hour),
	})
	a.File = a.write("authority.pem", "CERTIFICATE", der)
	return a
}

// Server issues a certificate for 127.0.0.1 and service.test that is good until
// end, and returns its files, PEM.
func (a *Authority) Server(end time.Time) (cert, key string) {
	a.t.Helper()
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "service.test"}, NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"service.test"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
	})
}

// Client issues a certificate for the user of that name that is good until end,
// and returns its files, PEM.
func (a *Authority) Client(user string, end time.Time) (cert, key string) {
	a.t.Helper()
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: user}, NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Install gives the server of a data directory a certificate as Server does, and
// has it know its clients by a: server.crt, server.key and root.crt there, which
// belong to the directory's owner. It goes by them from its next start.
func (a *Authority) Install(dir string, end time.Time) {
	a.t.Helper()
	info, err := os.Stat(dir)
	a.must(err)
	owner := info.Sys().(*syscall.Stat_t)
	cert, key := a.Server(end)
	for name, from := range map[string]string{"server.crt": cert, "server.key": key, "root.crt": a.File} {
		content, err := os.ReadFile(from)
		a.must(err)
		to := filepath.Join(dir, name)
		a.must(os.WriteFile(to, content, 0o600))
		a.must(os.Chown(to, int(owner.Uid), int(owner.Gid)))
	}
}

func (a *Authority) issue(template *x509.Certificate) (certFile, keyFile string) {
	a.t.Helper()
	_, key, der := a.sign(template)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	a.must(err)
	file := Name(a.t)
	return a.write(file+".pem", "CERTIFICATE", der), a.write(file+".key", "PRIVATE KEY", keyDER)
}

// sign makes a certificate with a new key: the authority's own, when it has none
// yet.
func (a *Authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-48 * time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	a.must(err)
	cert, err := x509.ParseCertificate(der)
	a.must(err)
	return cert, key, der
}

func (a *Authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	file := filepath.Join(a.dir, name)
	a.must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644))
	return file
}

func (a *Authority) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}
