package publisher

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// Certificates names the PEM files of a connection to a broker. They may be
// replaced at any time, so they are read for each connection.
type Certificates struct {
	// CA holds the authorities to trust. Empty: the system's.
	CA string
	// Cert and Key are the client's own certificate, both or none.
	Cert, Key string
}

// TLS reads the files. The configuration checks certificate and name of the
// broker and begins with TLS 1.2. The error is a *ConfigError that names the
// file.
func (c Certificates) TLS() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, &ConfigError{Code: "config", Detail: "read the authorities to trust", Err: err}
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &ConfigError{Code: "config", Detail: fmt.Sprintf("no certificate in %q; it must hold whole PEM blocks", c.CA)}
		}
	}
	if c.Cert != "" {
		own, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, &ConfigError{Code: "config", Err: err,
				Detail: fmt.Sprintf("read certificate and key (%q and %q must hold whole PEM blocks that belong together)", c.Cert, c.Key)}
		}
		t.Certificates = []tls.Certificate{own}
	}
	return t, nil
}
