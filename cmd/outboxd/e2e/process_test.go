package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// scratch holds the program, what it writes, and the relays that run of it: they
// go also when these tests die. TestMain sets it.
var scratch *devenv.Scratch

// binary builds the program once, as a user gets it.
var binary = sync.OnceValues(func() (string, error) {
	name := filepath.Join(scratch.Dir(), "outboxd")
	out, err := exec.Command("go", "build", "-o", name, "..").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
})

func TestMain(m *testing.M) {
	var err error
	if scratch, err = devenv.NewScratch("e2e"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := devtest.Run(m)
	if err := scratch.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// result is how a run of the program ended.
type result struct {
	code           int
	stdout, stderr string
}

// outboxd runs the program to its end.
func outboxd(t *testing.T, args ...string) result {
	t.Helper()
	return outboxdIn(t, "", args...)
}

func outboxdIn(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	name, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = cleanEnv()
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err = scratch.Start(cmd); err == nil {
		err = scratch.Wait(cmd)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("outboxd %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// cleanEnv is the environment without what would configure the program.
func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "OUTBOXD_") && !strings.HasPrefix(v, "PG") {
			env = append(env, v)
		}
	}
	return env
}

// site is a database that was set up, with the two minimal roles.
type site struct {
	t        *testing.T
	admin    string // URL of a superuser
	relay    string // URL of the relay's role
	app      string // URL of the services' role
	pipeline string
}

// newSite creates the roles and runs `outboxd setup` in the database.
func newSite(t *testing.T, admin string, flags ...string) *site {
	t.Helper()
	name := devtest.Name(t)
	s := &site{t: t, admin: admin, pipeline: name}
	relay, app := "relay_"+name, "app_"+name
	s.exec("CREATE ROLE " + relay + " LOGIN REPLICATION PASSWORD 'relay-secret'")
	s.exec("CREATE ROLE " + app + " LOGIN PASSWORD 'app-secret'")
	t.Cleanup(func() {
		for _, role := range []string{relay, app} {
			s.tryExec("DROP OWNED BY " + role)
			s.tryExec("DROP ROLE " + role)
		}
	})
	s.exec(workload.LedgerSQL)
	s.relay, s.app = as(t, admin, relay, "relay-secret"), as(t, admin, app, "app-secret")
	args := append([]string{"setup", "--database", admin, "--pipeline", name, "--relay-role", relay, "--app-role", app}, flags...)
	if r := outboxd(t, args...); r.code != 0 {
		t.Fatalf("outboxd setup: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	return s
}

// as returns the URL with another login.
func as(t *testing.T, database, role, password string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	return u.String()
}

func (s *site) tryExec(sql string) error {
	conn, err := pgx.Connect(context.Background(), s.admin)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), sql)
	return err
}

func (s *site) exec(sql string) {
	s.t.Helper()
	if err := s.tryExec(sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func (s *site) value(sql string) string {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.admin)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var v string
	if err := conn.QueryRow(context.Background(), sql).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// relay is a running `outboxd run`.
type relay struct {
	t       *testing.T
	cmd     *exec.Cmd
	exited  chan struct{}
	mu      sync.Mutex
	log     strings.Builder
	stdout  bytes.Buffer
	metrics string // base URL of the admin listener, once known
}

var listening = regexp.MustCompile(`127\.0\.0\.1:(\d+)`)

// run starts a relay of the site's pipeline as the relay's role.
func (s *site) run(flags ...string) *relay {
	s.t.Helper()
	return startRelay(s.t, s.args(flags...)...)
}

// args are the flags of a relay of the site's pipeline.
func (s *site) args(more ...string) []string {
	return append([]string{"--database", s.relay, "--pipeline", s.pipeline}, more...)
}

func startRelay(t *testing.T, flags ...string) *relay {
	t.Helper()
	name, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return watched(t, command(name, flags...))
}

// command is an `outboxd run` of a program.
func command(program string, flags ...string) *exec.Cmd {
	cmd := exec.Command(program, append([]string{"run", "--metrics", "127.0.0.1:0", "--log-format", "text"}, flags...)...)
	cmd.Env = cleanEnv()
	return cmd
}

// watched starts cmd, an `outboxd run`, and ends it with the test.
func watched(t *testing.T, cmd *exec.Cmd) *relay {
	t.Helper()
	r := &relay{t: t, cmd: cmd, exited: make(chan struct{})}
	cmd.Stdout = &r.stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := scratch.Start(cmd); err != nil {
		t.Fatal(err)
	}
	go r.watch(stderr)
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.exited
		if t.Failed() {
			t.Logf("log of the relay:\n%s", r.logged())
		}
	})
	return r
}

// watch keeps the log and reaps the process.
func (r *relay) watch(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		r.mu.Lock()
		fmt.Fprintln(&r.log, lines.Text())
		if m := listening.FindString(lines.Text()); m != "" && r.metrics == "" && strings.Contains(lines.Text(), "listen") {
			r.metrics = "http://" + m
		}
		r.mu.Unlock()
	}
	_ = scratch.Wait(r.cmd)
	close(r.exited)
}

func (r *relay) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// kill is kill -9.
func (r *relay) kill() {
	_ = r.cmd.Process.Kill()
	<-r.exited
}

// term is SIGTERM; it waits for the end and returns the exit code.
func (r *relay) term() int {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	return r.wait(35 * time.Second)
}

func (r *relay) wait(limit time.Duration) int {
	r.t.Helper()
	if !r.ends(limit) {
		r.t.Fatalf("the relay still runs after %s\n%s", limit, r.logged())
	}
	return r.cmd.ProcessState.ExitCode()
}

// ends says whether the relay ends within the limit.
func (r *relay) ends(limit time.Duration) bool {
	select {
	case <-r.exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// get asks the admin listener; status 0 means that it does not answer.
func (r *relay) get(path string) (status int, body string) {
	r.mu.Lock()
	base := r.metrics
	r.mu.Unlock()
	if base == "" {
		return 0, ""
	}
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(base + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(b)
}

// ready waits until /readyz says so.
func (r *relay) ready() {
	r.t.Helper()
	eventually(r.t, 30*time.Second, "the relay is ready", func() bool {
		status, _ := r.get("/readyz")
		return status == http.StatusOK
	})
}

// metric returns the sum of all series of a metric.
func (r *relay) metric(name string) float64 {
	_, body := r.get("/metrics")
	sum := 0.0
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
			if err == nil {
				sum += v
			}
		}
	}
	return sum
}

// eventually polls until ok or the limit.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
