package cdc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// renewed makes a certificate for 127.0.0.1 and returns it with its PEM.
func renewed(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serveTLS answers connections with TLS as p, with the certificate of the
// moment, until the test ends. It returns the address.
func (p *puppet) serveTLS(certificate *atomic.Pointer[tls.Certificate]) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil { // SSLRequest
					return
				}
				_, _ = conn.Write([]byte("S"))
				p.serve(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*certificate.Load()}}))
			}()
		}
	}()
	return listener.Addr().String()
}

// TestRotatedAuthority: each connection goes by sslrootcert as it is then, and
// says so when it cannot.
func TestRotatedAuthority(t *testing.T) {
	p := &puppet{t: t, answer: func(string) ([]any, string) { return nil, "" }}
	var server atomic.Pointer[tls.Certificate]
	first, ca := renewed(t)
	server.Store(&first)
	file := filepath.Join(t.TempDir(), "ca.pem")
	cfg := &Config{Database: "postgres://puppet:secret@" + p.serveTLS(&server) + "/puppet?sslmode=verify-full&sslrootcert=" + file, Pipeline: "p"}
	connections := map[string]func() error{
		"SQL": func() error {
			conn, err := connectSQL(t.Context(), cfg)
			if err == nil {
				closeSQL(conn)
			}
			return err
		},
		"replication": func() error {
			conn, err := connectReplication(t.Context(), cfg, 17_00_00, time.Minute)
			if err == nil {
				closeReplication(conn)
			}
			return err
		},
	}
	expect := func(content []byte, want Code) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for name, connect := range connections {
			err := connect()
			var named *Error
			errors.As(err, &named)
			if got := codeOf(named); got != want {
				t.Errorf("%s: %v, want the code %q", name, err, want)
			}
		}
	}
	expect(ca, "")
	expect(ca[:len(ca)/2], CodeConfig)
	second, renewedCA := renewed(t)
	server.Store(&second)
	expect(ca, CodeConfig)
	expect(renewedCA, "")
}

func codeOf(e *Error) Code {
	if e == nil {
		return ""
	}
	return e.Code
}
