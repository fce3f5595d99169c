package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// secret ends every password that these tests give to the program; it never
// prints one, wherever it was given.
const secret = "-secret"

// owned is newSite with an owner whose password must stay secret too.
func owned(t *testing.T, flags ...string) *site {
	t.Helper()
	return newSite(t, owner(t, devtest.Database(t)), flags...)
}

// owner makes a login that may do everything.
func owner(t *testing.T, database string) string {
	t.Helper()
	return login(t, database, "SUPERUSER")
}

// login makes a role with the attributes and returns the database's URL for it.
func login(t *testing.T, database, attributes string) string {
	t.Helper()
	s := &site{t: t, admin: database}
	role := devtest.Name(t)
	s.exec("CREATE ROLE " + role + " LOGIN PASSWORD 'login-secret' " + attributes)
	t.Cleanup(func() {
		if err := errors.Join(s.tryExec("DROP OWNED BY "+role+" CASCADE"), s.tryExec("DROP ROLE "+role)); err != nil {
			t.Error(err)
		}
	})
	return as(t, database, role, "login-secret")
}

// expect checks the exit code, that the words are there, and that no password
// is.
func (r result) expect(t *testing.T, code int, words ...string) {
	t.Helper()
	output := r.stdout + r.stderr
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s", r.code, code, output)
	}
	contains(t, output, words...)
	keepsSecrets(t, "output", output)
}

func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}

func keepsSecrets(t *testing.T, what, text string) {
	t.Helper()
	if strings.Contains(text, secret) {
		t.Errorf("%s shows a password:\n%s", what, text)
	}
}

// gives runs a relay that is going to give up.
func (s *site) gives(flags ...string) result {
	s.t.Helper()
	return outboxd(s.t, append([]string{"run", "--database", s.relay, "--pipeline", s.pipeline, "--metrics", "off", "--log-format", "text"}, flags...)...)
}

// discreet is a relay that is looked over for passwords when the test ends.
func discreet(r *relay) *relay {
	r.t.Helper()
	r.t.Cleanup(func() {
		for _, path := range []string{"/readyz", "/livez", "/metrics"} {
			_, body := r.get(path)
			keepsSecrets(r.t, path, body)
		}
		r.kill()
		keepsSecrets(r.t, "the log", r.logged())
		keepsSecrets(r.t, "standard output", r.stdout.String())
	})
	return r
}

// TestCrashKeepsSecrets: what the Go runtime writes when the program dies of a
// panic, or here of SIGQUIT, are the stacks of all goroutines, and no password.
func TestCrashKeepsSecrets(t *testing.T) {
	t.Parallel()
	s := owned(t)
	r := discreet(startRelay(t, "--database", s.relay, "--pipeline", s.pipeline, "--broker", "jsonl:-"))
	r.ready()
	if err := r.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	r.wait(10 * time.Second)
	contains(t, r.logged(), "SIGQUIT: quit", "outboxd/cdc.(*Stream).Run")
}

// says waits until /readyz answers with the status and the words.
func (r *relay) says(status int, words ...string) {
	r.t.Helper()
	var got int
	var body string
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) {
		got, body = r.get("/readyz")
		if got == status && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(body, w) }) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("readyz: %d %s, want %d with %q", got, body, status, words)
		}
	}
}

// write commits events number first to last of one aggregate, each in a
// transaction of its own, as the services' role.
func (s *site) write(first, last int) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.app)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for n := first; n <= last; n++ {
		_, err := conn.Exec(s.t.Context(), `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
			VALUES (gen_random_uuid(), 'order', 'one', 'placed', json_build_object('n', $1::int))`, n)
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// slot is the pipeline's.
func (s *site) slot() string { return "outboxd_" + s.pipeline }

// lines is a file that a relay writes to as its broker.
type lines struct {
	t    *testing.T
	path string
}

func newLines(t *testing.T) lines { return lines{t, filepath.Join(scratch.Dir(), devtest.Name(t))} }

func (l lines) broker() []string { return []string{"--broker", "jsonl:" + l.path} }

// numbers are those of the events in the file. Its last line may be under way.
func (l lines) numbers() (all []int) {
	l.t.Helper()
	text, err := os.ReadFile(l.path)
	if err != nil && !os.IsNotExist(err) {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var record struct{ Value struct{ N int } }
		if !strings.HasSuffix(line, "\n") {
			break
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			l.t.Fatalf("%s: %v", line, err)
		}
		all = append(all, record.Value.N)
	}
	return all
}

// expect waits for the events of those numbers, in order and once.
func (l lines) expect(first, last int) {
	l.t.Helper()
	want := upTo(first, last)
	eventually(l.t, 30*time.Second, fmt.Sprintf("events %d to %d arrive", first, last), func() bool { return len(l.numbers()) >= len(want) })
	if got := l.numbers(); !slices.Equal(got, want) {
		l.t.Errorf("events %v arrived, want %v", got, want)
	}
}

func upTo(first, last int) (all []int) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

// closedPort is an address of this host that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// forward makes addr lead to another address until the test ends.
func forward(t *testing.T, addr, to string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go join(in, to)
		}
	}()
}

func join(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
}

// TestCommandLine: what the program says without a database.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const db = "--database postgres://u:db-secret@127.0.0.1:1/d "
	for _, tt := range []struct {
		name, args string
		code       int
		words      []string
	}{
		{"version", "version", 0, []string{"outboxd ", "built with go1."}},
		{"unknown command", "setpu", 2, []string{`unknown command "setpu"`, "did you mean setup", "outboxd --help"}},
		{"unknown flag", "run --databse postgres://u:db-secret@h/d", 2, []string{"unknown flag: --databse", "did you mean --database", "outboxd run --help"}},
		{"URL without its flag", "setup postgres://u:db-secret@h/d", 2, []string{`unknown argument "postgres://u:`, "outboxd setup --help"}},
		{"no broker", "run " + db, 78, []string{"--broker is missing", "kafka://", "amqp://", "jsonl:"}},
		{"unknown scheme", "run " + db + "--broker kafak://u:broker-secret@h:9092", 78, []string{`--broker begins with "kafak"`, "did you mean kafka?"}},
		{"unknown Kafka option", "run " + db + "--broker kafka://u:broker-secret@h?lane=4", 78, []string{`unknown kafka option "lane"`, `did you mean "lanes"?`}},
		{"unknown RabbitMQ option", "run " + db + "--broker amqp://u:broker-secret@h/?heartbaet=5s", 78, []string{"heartbaet", "did you mean", "heartbeat"}},
		{"bad template", "run " + db + "--broker kafka://h --topic shop.{agregatetype}", 78, []string{"topic template", "{agregatetype}", "{aggregatetype}"}},
		{"bad routing key", "run " + db + "--broker amqp://u:broker-secret@h --routing-key {type", 78, []string{"routing key template", "{type"}},
		{"every problem at once", "run " + db + "--broker kafka://h --exchange x --poison drop --log-level loud", 78, []string{"--exchange is not for a kafka broker", "--poison", "loud"}},
		{"unreadable URL", "run --database postgres://u:db-secret@h:port/d --broker jsonl:-", 78, []string{"--database"}},
		{"bad slot name", "setup " + db + "--slot Not-A-Slot", 78, []string{`slot "Not-A-Slot"`, "a-z, 0-9 and _"}},
		{"metrics port taken", "run " + db + "--broker jsonl:- --log-format text --metrics " + taken.Addr().String(), 78,
			[]string{"metrics_address", taken.Addr().String(), "another process has the port", "--metrics 127.0.0.1:0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			outboxd(t, strings.Fields(tt.args)...).expect(t, tt.code, tt.words...)
		})
	}
}

// TestVariables: OUTBOXD_ variables stand for flags, PG variables for parts of
// --database.
func TestVariables(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	config, err := pgx.ParseConfig(s.relay)
	if err != nil {
		t.Fatal(err)
	}
	name, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s.write(1, 3)
	cmd := exec.Command(name, "run", "--log-format", "json")
	cmd.Env = append(cleanEnv(), "OUTBOXD_PIPELINE="+s.pipeline, "OUTBOXD_BROKER=jsonl:"+out.path, "OUTBOXD_METRICS=127.0.0.1:0", "OUTBOXD_TOPIC=shop.{type}",
		"PGHOST="+config.Host, fmt.Sprintf("PGPORT=%d", config.Port), "PGUSER="+config.User, "PGPASSWORD="+config.Password, "PGDATABASE="+config.Database, "PGSSLMODE=disable")
	r := discreet(watched(t, cmd))
	out.expect(1, 3)
	r.says(http.StatusOK, "streaming")
	if code := r.term(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	text, err := os.ReadFile(out.path)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), `"topic":"shop.placed"`)
}
