package cdc_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// secured is a server that lets the relay's role in by TLS alone, and only with
// both a password and a certificate.
type secured struct {
	*fixture
	server *devenv.Postgres
	role   string
}

func newSecured(t *testing.T) *secured {
	server, f := ownServer(t, nil)
	s := &secured{f, server, f.cfg.Slot}
	f.exec("CREATE ROLE " + s.role + " LOGIN REPLICATION PASSWORD 'right'")
	f.exec("GRANT USAGE ON SCHEMA outboxd TO " + s.role)
	f.exec("GRANT SELECT, INSERT, UPDATE ON outboxd.witness TO " + s.role)
	hba := filepath.Join(server.DataDir(), "pg_hba.conf")
	others, err := os.ReadFile(hba)
	s.must(err)
	lines := "hostssl all " + s.role + " 127.0.0.1/32 scram-sha-256 clientcert=verify-full\nhost all " + s.role + " all reject\n"
	s.must(os.WriteFile(hba, append([]byte(lines), others...), 0o600))
	f.exec("ALTER SYSTEM SET ssl = on")
	f.exec("ALTER SYSTEM SET ssl_ca_file = 'root.crt'")
	return s
}

func (s *secured) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// restart starts the server again with a certificate of an authority, in whose
// clients it believes from then on.
func (s *secured) restart(a *devtest.Authority, end time.Time) {
	s.t.Helper()
	stop(s.t, s.server)
	a.Install(s.server.DataDir(), end)
	s.must(s.server.Start(s.t.Context()))
	s.redial()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// files are a client's: its authority, its certificate and the key.
type files struct{ ca, cert, key string }

// url is for the role, with these files; those that are empty are left out.
func (s *secured) url(host, password string, f files) string {
	query := url.Values{"sslmode": {"verify-full"}}
	for name, file := range map[string]string{"sslrootcert": f.ca, "sslcert": f.cert, "sslkey": f.key} {
		if file != "" {
			query.Set(name, file)
		}
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(s.role, password), Host: host + ":" + strconv.Itoa(s.server.Port()),
		Path: "/postgres", RawQuery: query.Encode()}
	return u.String()
}

// TestTLS: what a real server or this side refuses is named, with its fix, and
// without the password.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	own, stranger := devtest.NewAuthority(t), devtest.NewAuthority(t)
	hour, over := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	with := func(cert, key string) files { return files{own.File, cert, key} }
	good := with(own.Client(s.role, hour))
	t.Run("server without TLS", func(t *testing.T) {
		s.row(t, s.url("127.0.0.1", "right", good), cdc.CodeConfig, "turn ssl on")
	})
	s.restart(own, hour)
	const authority, client = "sslrootcert must hold", "sslcert and sslkey must"
	for _, row := range []struct {
		name, host, password string
		files                files
		code                 cdc.Code
		fix                  string
	}{
		{"trusted", "127.0.0.1", "right", good, "", ""},
		{"wrong authority", "127.0.0.1", "right", files{stranger.File, good.cert, good.key}, cdc.CodeConfig, authority},
		{"system's authorities", "127.0.0.1", "right", files{"", good.cert, good.key}, cdc.CodeConfig, authority},
		{"wrong name", "localhost", "right", good, cdc.CodeConfig, "the host be one that it is for"},
		{"no certificate", "127.0.0.1", "right", files{ca: own.File}, cdc.CodeAuth, "client certificate"},
		{"strange certificate", "127.0.0.1", "right", with(stranger.Client(s.role, hour)), cdc.CodeConfig, client},
		{"expired certificate", "127.0.0.1", "right", with(own.Client(s.role, over)), cdc.CodeConfig, client},
		{"certificate of another user", "127.0.0.1", "right", with(own.Client("somebody", hour)), cdc.CodeAuth, "client certificate"},
		{"wrong password", "127.0.0.1", "canary", good, cdc.CodeAuth, "password"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s.row(t, s.url(row.host, row.password, row.files), row.code, row.fix)
		})
	}
	s.restart(own, over)
	t.Run("expired server", func(t *testing.T) {
		s.row(t, s.url("127.0.0.1", "right", good), cdc.CodeConfig, authority)
	})
}

// relay is for the role: who reads the stream, with no connection of its own.
func (s *secured) relay(t *testing.T, database string) *fixture {
	f := &fixture{t: t, cfg: s.cfg}
	f.cfg.Database = database
	return f
}

func (s *secured) row(t *testing.T, database string, code cdc.Code, fix string) {
	f := s.relay(t, database)
	if code == "" {
		f.session(f.reader()).close()
		return
	}
	err := f.refuses(code)
	if !strings.Contains(err.Fix, fix) {
		t.Errorf("%v\nfix %q, want %q in it", err, err.Fix, fix)
	}
	if strings.Contains(err.Error()+err.Fix, "canary") {
		t.Errorf("the error shows the password: %v", err)
	}
}

// TestRotation: the certificates of both sides are changed, and the authority of
// both, while a relay lives. It says what is wrong until its files are changed
// too, and goes on where it was.
func TestRotation(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	dir := t.TempDir()
	mine := files{filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")}
	renew := func() (ca, client func()) {
		a := devtest.NewAuthority(t)
		s.restart(a, time.Now().Add(time.Hour))
		cert, key := a.Client(s.role, time.Now().Add(time.Hour))
		return func() { copyFile(t, a.File, mine.ca) }, func() { copyFile(t, cert, mine.cert); copyFile(t, key, mine.key) }
	}
	ca, client := renew()
	ca()
	client()
	relay := s.relay(t, s.url("127.0.0.1", "right", mine))
	r := relay.reader()
	first := relay.session(r)
	s.exec("INSERT INTO outbox VALUES (1), (2)")
	ackAll(r, first.take(2)[:1])

	ca, client = renew()
	refused := func(text string) {
		t.Helper()
		_, err := r.Open(t.Context())
		if e := wantCode(t, err, cdc.CodeConfig); !strings.Contains(e.Fix, text) {
			t.Errorf("%v\nfix %q, want %q in it", e, e.Fix, text)
		}
	}
	refused("sslrootcert")
	ca()
	refused("sslcert and sslkey")
	client()
	s.exec("INSERT INTO outbox VALUES (3)")
	second := relay.session(r)
	if got := ids(second.take(2)); got != "2 3" {
		t.Errorf("after the rotation came %s, want 2 3", got)
	}
}
