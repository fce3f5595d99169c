package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// database returns a fresh database, set up with the given flags unless they
// are nil.
func database(t *testing.T, flags ...string) string {
	t.Helper()
	db := devtest.Database(t)
	if flags != nil {
		r := call(t, nil, append([]string{"setup", "--database", db}, flags...)...)
		r.expect(t, 0)
	}
	return db
}

func execSQL(t *testing.T, db, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// insert commits n events of one aggregate, numbered from first.
func insert(t *testing.T, db string, first, n int) {
	t.Helper()
	execSQL(t, db, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
		SELECT gen_random_uuid(), 'order', 'one', 'placed', json_build_object('n', i) FROM generate_series($1::int, $2::int) i`, first, first+n-1)
}

// numbers are those of the events in a file of jsonl, in its order. Its last line
// may be under way.
func numbers(t *testing.T, path string) (all []int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		var record struct{ Value struct{ N int } }
		if !strings.HasSuffix(line, "\n") {
			break
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, record.Value.N)
	}
	return all
}

// eventually polls until what it waits for is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline, poll := time.After(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer poll.Stop()
	for !is() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func (b *background) says(text string) bool { return strings.Contains(b.err.String(), text) }

var listening = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// get asks the admin listener, whose address the log tells.
func (b *background) get(path string) (code int, body string) {
	b.t.Helper()
	eventually(b.t, "listening", func() bool { return listening.MatchString(b.err.String()) })
	response, err := http.Get(listening.FindString(b.err.String()) + path)
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// run is the program relaying db to a file, with a free port.
func run(t *testing.T, db, path string, flags ...string) *background {
	return start(t, nil, append([]string{"run", "--database", db, "--broker", "jsonl:" + path, "--metrics", "127.0.0.1:0"}, flags...)...)
}

// TestRun is the life of a relay: events, probes, a drain, another life that
// repeats nothing.
func TestRun(t *testing.T) {
	db, path := database(t, "--retention", "1h"), filepath.Join(t.TempDir(), "out")
	insert(t, db, 0, 50)
	first := run(t, db, path)
	eventually(t, "50 events", func() bool { return len(numbers(t, path)) == 50 })
	if code, body := first.get("/readyz"); code != 200 || !strings.HasSuffix(body, "_outbox: streaming\n") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, _ := first.get("/livez"); code != 200 {
		t.Errorf("livez: %d", code)
	}
	eventually(t, "metrics of the slot", func() bool {
		_, body := first.get("/metrics")
		return regexp.MustCompile(`outboxd_events_published_total{destination="outbox.event.order",pipeline="\w+_outbox"} 50\n`).MatchString(body) &&
			regexp.MustCompile(`outboxd_slot_wal_status{pipeline="\w+",status="reserved"} 1\n`).MatchString(body) &&
			regexp.MustCompile(`outboxd_leader{pipeline="\w+"} 1\n`).MatchString(body) &&
			regexp.MustCompile(`outboxd_pipeline_up{pipeline="\w+"} 1\n`).MatchString(body) &&
			regexp.MustCompile(`outboxd_retention_runs_total{pipeline="\w+",result="ok"} 1\n`).MatchString(body)
	})
	if code := first.finish(); code != 0 {
		t.Errorf("exit code %d after a stop", code)
	}
	second := run(t, db, path)
	insert(t, db, 50, 50)
	eventually(t, "100 events", func() bool { return len(numbers(t, path)) >= 100 })
	if code := second.finish(); code != 0 {
		t.Errorf("exit code %d after a stop", code)
	}
	for i, n := range numbers(t, path) {
		if n != i {
			t.Fatalf("event %d in place %d: repeated or out of order", n, i)
		}
	}
}

// A partition that is full and due shows at once.
func TestRunTellsRetentionBacklog(t *testing.T) {
	db := database(t, "--retention", "1h")
	execSQL(t, db, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, bucket) SELECT gen_random_uuid(), 'order', 'one', 'placed', b FROM generate_series(0, 7) b`)
	r := run(t, db, filepath.Join(t.TempDir(), "out"))
	eventually(t, "a backlog", func() bool {
		_, body := r.get("/metrics")
		return regexp.MustCompile(`outboxd_retention_backlog_seconds{pipeline="\w+"} (0\.\d*[1-9]|[1-9])`).MatchString(body)
	})
	if code := r.finish(); code != 0 {
		t.Errorf("exit code %d after a stop", code)
	}
}

// TestRunNotSetUp: the fix is the whole command.
func TestRunNotSetUp(t *testing.T) {
	db := database(t)
	r := call(t, nil, "run", "--database", db, "--broker", "jsonl:-", "--metrics", "off", "--pipeline", "p", "--table", "public.events", "--log-format", "text")
	r.expect(t, 78, "not_set_up", "fix: outboxd setup --pipeline p --table public.events --database 'postgres://postgres@127.0.0.1")
	r = call(t, nil, "run", "--database", db, "--broker", "jsonl:-", "--metrics", "off", "--log-format", "json")
	r.expect(t, 78, `"msg":"giving up"`, `"code":"not_set_up"`, `"exit":78`)
	if strings.Contains(r.err, "\noutboxd: ") {
		t.Errorf("JSON logs end with lines of text:\n%s", r.err)
	}
}

// TestNamesAreRecalled: run and adopt need no more than the pipeline's name.
func TestNamesAreRecalled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	db := database(t, "--pipeline", "p", "--table", "public.events", "--slot", devtest.Name(t), "--publication", "My publication")
	execSQL(t, db, `INSERT INTO events (id, aggregatetype, aggregateid, type, payload) VALUES (gen_random_uuid(), 'order', 'one', 'placed', '{"n": 0}')`)
	leader := run(t, db, path, "--pipeline", "p")
	eventually(t, "an event", func() bool { return len(numbers(t, path)) == 1 })
	// To the other relay it is the same configuration, in whatever way it was
	// told the names.
	second := run(t, db, path, "--pipeline", "p", "--table", "public.events")
	eventually(t, "standby", func() bool { return second.says(`"msg":"standby`) })
	for _, b := range []*background{second, leader} {
		if code := b.finish(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	r := call(t, nil, "adopt", "--database", db, "--pipeline", "p")
	r.expect(t, 0)
	if !strings.Contains(r.out, "pipeline p: no gap") {
		t.Errorf("%s", r.out)
	}
	again := run(t, db, path, "--pipeline", "p", "--setup")
	eventually(t, "streaming", func() bool { return again.says(`"msg":"streaming"`) })
	if code := again.finish(); code != 0 {
		t.Errorf("exit code %d of run --setup", code)
	}
}

func TestRunSetsUp(t *testing.T) {
	db, path := database(t), filepath.Join(t.TempDir(), "out")
	b := run(t, db, path, "--setup", "--pipeline", "p", "--retention", "5h")
	eventually(t, "streaming", func() bool { return b.says(`"msg":"streaming"`) })
	if !b.says("created        replication slot outboxd_p") || !b.says("rows kept for 5h") {
		t.Error("the log does not say what was set up")
	}
	insert(t, db, 0, 1)
	eventually(t, "an event", func() bool { return len(numbers(t, path)) == 1 })
	if code := b.finish(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestStandby: the second waits, says who leads, and takes over; one with
// another configuration stops.
func TestStandby(t *testing.T) {
	db, path := database(t, "--pipeline", "p"), filepath.Join(t.TempDir(), "out")
	leader := run(t, db, path, "--pipeline", "p")
	eventually(t, "streaming", func() bool { return leader.says(`"msg":"streaming"`) })
	second := run(t, db, path, "--pipeline", "p")
	eventually(t, "standby", func() bool { return second.says(`"msg":"standby`) && second.says("is held by server process") })
	if code, body := second.get("/readyz"); code != 200 || !strings.HasPrefix(body, "p: standby") {
		t.Errorf("readyz: %d %s", code, body)
	}
	other := call(t, nil, "run", "--database", db, "--broker", "jsonl:"+path, "--pipeline", "p", "--metrics", "off", "--topic", "another")
	other.expect(t, 78, "config_mismatch")
	if code := leader.finish(); code != 0 {
		t.Errorf("the leader: exit code %d", code)
	}
	insert(t, db, 0, 1)
	eventually(t, "takeover", func() bool { return len(numbers(t, path)) == 1 })
	if code := second.finish(); code != 0 {
		t.Errorf("the second: exit code %d", code)
	}
}

func TestRunRefusals(t *testing.T) {
	db := database(t, "--retention", "1h", "--pipeline", "p")
	run := func(flags ...string) result {
		return call(t, nil, append([]string{"run", "--database", db, "--pipeline", "p", "--log-format", "text", "--metrics", "off", "--broker", "jsonl:/dev/null"}, flags...)...)
	}
	t.Run("retention", func(t *testing.T) {
		run("--retention", "2h").expect(t, 78, "hold 1h", "--retention 1h0m0s or less")
	})
	t.Run("port taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		run("--metrics", l.Addr().String()).expect(t, 78, "listen on --metrics "+l.Addr().String(), "fix: another process has the port")
	})
	t.Run("database unreachable", func(t *testing.T) {
		run("--database", "postgres://u@127.0.0.1:1/db", "--fail-fast").expect(t, 69, "database_unreachable")
	})
	t.Run("setup of an unreachable database", func(t *testing.T) {
		run("--database", "postgres://u@127.0.0.1:1/db", "--fail-fast", "--setup").expect(t, 69, "database_unreachable")
	})
	t.Run("wrong password", func(t *testing.T) {
		run("--database", withUser(t, db, "nobody", "wrong-password")).expect(t, 77, "authentication")
	})
	t.Run("broker unreachable", func(t *testing.T) {
		run("--broker", "amqp://127.0.0.1:1", "--fail-fast").expect(t, 69, "broker_unreachable")
	})
	t.Run("NULL aggregate id", func(t *testing.T) {
		execSQL(t, db, `ALTER TABLE outbox ALTER aggregateid DROP NOT NULL`)
		execSQL(t, db, `INSERT INTO outbox (id, aggregatetype, type, payload) VALUES ('0190d5a5-6c3a-7000-8000-000000000001', 'order', 'placed', '{}')`)
		run("--poison", "stop").expect(t, 1, "poison: publish event 0190d5a5-6c3a-7000-8000-000000000001 at 0001.", "missing_key", "--allow-unkeyed", "fix: ")
	})
}

func withUser(t *testing.T, db, user, password string) string {
	t.Helper()
	u, err := url.Parse(db)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// TestWaitsForDatabase: a run that has to look something up in the database
// first is as patient as the relay.
func TestWaitsForDatabase(t *testing.T) {
	b := start(t, nil, "run", "--database", "postgres://u@127.0.0.1:1/db", "--broker", "jsonl:-", "--metrics", "127.0.0.1:0", "--setup")
	eventually(t, "a word on it", func() bool { return b.says(`"msg":"retrying"`) && b.says("database_unreachable") })
	if code, body := b.get("/readyz"); code != 503 || !strings.HasPrefix(body, "db_outbox: retrying: database_unreachable") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code := b.finish(); code != 0 {
		t.Errorf("exit code %d after a stop", code)
	}
}

// TestTeardown asks, and takes back what setup made.
func TestTeardown(t *testing.T) {
	db := database(t, "--pipeline", "p")
	call(t, nil, "teardown", "--database", db, "--pipeline", "p").expect(t, 1, "nothing was changed", "--yes")
	r := call(t, nil, "teardown", "--database", db, "--pipeline", "p", "--yes", "--drop-tables")
	r.expect(t, 0)
	if !strings.Contains(r.out, "dropped") || !strings.Contains(r.out, "replication slot outboxd_p") {
		t.Errorf("%s", r.out)
	}
	call(t, nil, "teardown", "--database", db, "--pipeline", "p", "--yes").expect(t, 78, "not_set_up: no pipeline p in database", "none is set up here")
}
