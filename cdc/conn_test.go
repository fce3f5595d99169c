package cdc

import (
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// What the owner of the database or the role has set for others must neither
// change the text of values nor end the stream or lose a witness.
func TestSettingsOfDatabaseDoNotMatter(t *testing.T) {
	type setting struct {
		name, theirs    string
		stream, witness string // what each connection has; empty: it does not matter
	}
	tests := []setting{
		{"client_encoding", "LATIN1", "UTF8", ""},
		{"DateStyle", "German", "ISO, DMY", ""},
		{"IntervalStyle", "iso_8601", "postgres", ""},
		{"TimeZone", "Asia/Tokyo", "UTC", ""},
		{"extra_float_digits", "-15", "3", ""},
		{"bytea_output", "escape", "hex", ""},
		{"statement_timeout", "1min", "0", "0"},
		{"lock_timeout", "1min", "0", "1s"},
		{"idle_in_transaction_session_timeout", "1min", "0", ""},
		{"idle_session_timeout", "1min", "0", "0"},
		{"transaction_timeout", "1min", "0", ""}, // 17 and later
		{"wal_sender_timeout", "0", "7s", ""},
		{"synchronous_commit", "off", "", "on"},
		{"default_transaction_isolation", "repeatable read", "", "read committed"},
	}
	cfg := &Config{Database: devtest.Database(t), Pipeline: "p"}
	admin, err := pgx.Connect(t.Context(), cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer closeSQL(admin)
	srv, err := inspectServer(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	if srv.version < 17_00_00 {
		tests = slices.DeleteFunc(tests, func(tt setting) bool { return tt.name == "transaction_timeout" })
	}
	name := pgx.Identifier{admin.Config().Database}.Sanitize()
	for _, tt := range tests {
		if _, err := admin.Exec(t.Context(), "ALTER DATABASE "+name+" SET "+tt.name+" = '"+tt.theirs+"'"); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := connectReplication(t.Context(), cfg, srv.version, 7*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer closeReplication(stream)
	witness, err := connectSQL(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeSQL(witness)
	for _, tt := range tests {
		if tt.stream != "" {
			rows, err := stream.Exec(t.Context(), "SHOW "+tt.name).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if got := string(rows[0].Rows[0][0]); got != tt.stream {
				t.Errorf("stream: %s = %s, want %s", tt.name, got, tt.stream)
			}
		}
		if tt.witness != "" {
			var got string
			if err := witness.QueryRow(t.Context(), "SHOW "+tt.name).Scan(&got); err != nil || got != tt.witness {
				t.Errorf("witness: %s = %s, %v; want %s", tt.name, got, err, tt.witness)
			}
		}
	}
}

// The first of two hosts is gone without a word, as a machine is that lost its
// power: the second has its turn all the same.
func TestSecondHostHasItsTurn(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gone.Close() })
	u, err := url.Parse(devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Host = gone.Addr().String() + "," + u.Host
	cfg := &Config{Database: u.String(), Pipeline: "p"}
	t.Run("witness", func(t *testing.T) {
		t.Parallel()
		conn, err := connectSQL(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		closeSQL(conn)
	})
	t.Run("stream", func(t *testing.T) {
		t.Parallel()
		conn, err := connectReplication(t.Context(), cfg, 17_00_00, 7*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		closeReplication(conn)
	})
}

// TestConnectFailure says each cause once, and TLS that was not to be had only
// when there is no other.
func TestConnectFailure(t *testing.T) {
	const (
		head    = "failed to connect to `user=u database=d`"
		refused = "h:1 (::1): dial error: connection refused"
		other   = "i:1 (::2): dial error: connection refused"
		noTLS   = "h:1 (::1): tls error: server refused TLS connection"
		login   = "h:1 (::1): failed SASL auth: password authentication failed"
	)
	for _, c := range []struct{ name, in, want string }{
		{"one cause", head + ": " + refused, head + ": " + refused},
		{"with TLS and without", head + ":\n\t" + refused + "\n\t" + refused, head + ": " + refused},
		{"wrong password", head + ":\n\t" + noTLS + "\n\t" + login, head + ": " + login},
		{"TLS is required", head + ":\n\t" + noTLS, head + ": " + noTLS},
		{"two hosts", head + ":\n\t" + refused + "\n\t" + refused + "\n\t" + other + "\n\t" + other, head + ":\n\t" + refused + "\n\t" + other},
	} {
		t.Run(c.name, func(t *testing.T) {
			cause := errors.New(c.in)
			err := connectError(cause)
			if got := err.Err.Error(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if !errors.Is(err, cause) {
				t.Error("the cause is not in the chain")
			}
		})
	}
}

// failingConn fails to write, and has something left to read.
type failingConn struct {
	net.Conn
	failure error
	strings.Reader
}

func (c *failingConn) Write([]byte) (int, error)  { return 0, c.failure }
func (c *failingConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// TestLastWord: what the server said before it hung up is read, whatever became
// of our own words.
func TestLastWord(t *testing.T) {
	for failure, hidden := range map[error]bool{
		syscall.ECONNRESET: true, syscall.EPIPE: true, os.ErrDeadlineExceeded: false, net.ErrClosed: false,
	} {
		conn := lastWordConn{&failingConn{failure: &net.OpError{Op: "write", Err: failure}, Reader: *strings.NewReader("why")}}
		if n, err := conn.Write([]byte("hello")); hidden && (n != 5 || err != nil) || !hidden && !errors.Is(err, failure) {
			t.Errorf("%v: write gives %d, %v", failure, n, err)
		}
		if word, err := io.ReadAll(conn); string(word) != "why" || err != nil {
			t.Errorf("%v: read %q, %v", failure, word, err)
		}
	}
}
