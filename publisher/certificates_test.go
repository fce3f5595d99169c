package publisher_test

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
)

func TestCertificates(t *testing.T) {
	a := devtest.NewAuthority(t)
	cert, key := a.Client("relay", time.Now().Add(time.Hour))
	_, other := a.Client("somebody", time.Now().Add(time.Hour))
	half := filepath.Join(t.TempDir(), "half.pem")
	whole, err := os.ReadFile(a.File)
	if err == nil {
		err = os.WriteFile(half, whole[:len(whole)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]struct {
		files publisher.Certificates
		text  string // empty: they serve
	}{
		"none":           {publisher.Certificates{}, ""},
		"all":            {publisher.Certificates{CA: a.File, Cert: cert, Key: key}, ""},
		"no such file":   {publisher.Certificates{CA: "/no/such"}, "open /no/such"},
		"half a file":    {publisher.Certificates{CA: half}, half},
		"no certificate": {publisher.Certificates{CA: key}, "no certificate in"},
		"key of another": {publisher.Certificates{Cert: cert, Key: other}, other},
	} {
		config, err := f.files.TLS()
		if f.text != "" {
			var named *publisher.ConfigError
			if !errors.As(err, &named) || named.Code != "config" || !strings.Contains(err.Error(), f.text) {
				t.Errorf("%s: %v, want a ConfigError with %q", name, err, f.text)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if config.InsecureSkipVerify || config.MinVersion != tls.VersionTLS12 || (config.RootCAs != nil) != (f.files.CA != "") || (len(config.Certificates) == 1) != (f.files.Cert != "") {
			t.Errorf("%s: %+v", name, config)
		}
	}
}
