package e2e_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestDatabaseUnreachable: run waits for ever and says what for; commands and
// --fail-fast give up.
func TestDatabaseUnreachable(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	s.write(1, 1)
	real, err := url.Parse(s.relay)
	if err != nil {
		t.Fatal(err)
	}
	away, addr := *real, closedPort(t)
	away.Host = addr
	database := []string{"--database", away.String(), "--pipeline", s.pipeline}
	r := discreet(startRelay(t, append(database, out.broker()...)...))
	r.says(http.StatusServiceUnavailable, "retrying", "database_unreachable", addr)
	for _, command := range [][]string{{"setup"}, {"teardown", "--yes"}, {"adopt", "--yes"}, {"run", "--fail-fast", "--metrics", "off", "--log-format", "text", "--broker", "jsonl:-"},
		{"run", "--setup", "--fail-fast", "--metrics", "off", "--log-format", "text", "--broker", "jsonl:-"}} {
		outboxd(t, append(command, database...)...).expect(t, 69, "database_unreachable", addr, "fix: check host and port in --database (or PGHOST and PGPORT), and whether the server runs")
	}
	forward(t, addr, real.Host)
	r.says(http.StatusOK, "streaming")
	out.expect(1, 1)
}

// TestLogin: what the server says to who we are.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := owned(t)
	wrong, err := url.Parse(s.relay)
	if err != nil {
		t.Fatal(err)
	}
	role := wrong.User.Username()
	wrong.User = url.UserPassword(role, "wrong-secret")
	noDatabase, err := url.Parse(s.relay)
	if err != nil {
		t.Fatal(err)
	}
	noDatabase.Path = "/nowhere"
	for name, tt := range map[string]struct {
		database string
		code     int
		words    []string
	}{
		"wrong password": {wrong.String(), 77, []string{"authentication", role, "check user and password in --database"}},
		"no database":    {noDatabase.String(), 78, []string{"database_missing", "nowhere", "check the database's name in --database"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, command := range [][]string{{"setup"}, {"adopt"}, {"run", "--metrics", "off", "--log-format", "text", "--broker", "jsonl:-"}} {
				outboxd(t, append(command, "--database", tt.database, "--pipeline", s.pipeline)...).expect(t, tt.code, tt.words...)
			}
			r := outboxd(t, "run", "--database", tt.database, "--pipeline", s.pipeline, "--metrics", "off", "--log-format", "json", "--broker", "jsonl:-")
			r.expect(t, tt.code, append(tt.words, `"msg":"giving up"`, `"fix":"check `, fmt.Sprintf(`"exit":%d`, tt.code))...)
			for line := range strings.Lines(r.stderr) {
				if !json.Valid([]byte(line)) {
					t.Errorf("not a line of JSON: %s", line)
				}
			}
		})
	}
}

// TestTLSByDefault: who does not say how to connect is not connected to a server
// that cannot show who it is.
func TestTLSByDefault(t *testing.T) {
	t.Parallel()
	s := owned(t)
	silent, err := url.Parse(s.relay)
	if err != nil {
		t.Fatal(err)
	}
	silent.RawQuery = ""
	for _, command := range [][]string{{"setup"}, {"adopt"}, {"run", "--metrics", "off", "--log-format", "text", "--broker", "jsonl:-"}} {
		outboxd(t, append(command, "--database", silent.String(), "--pipeline", s.pipeline)...).expect(t, 78, "server refused TLS", "sslmode=disable in --database")
	}
}

func TestWALLevelReplica(t *testing.T) {
	t.Parallel()
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Settings: map[string]string{"wal_level": "replica", "fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	database := login(t, server.URL("postgres", "postgres"), "SUPERUSER")
	words := []string{"wal_level", `"replica"`, "ALTER SYSTEM SET wal_level = 'logical'", "restart the server"}
	outboxd(t, "setup", "--database", database).expect(t, 78, words...)
	outboxd(t, "run", "--database", database, "--broker", "jsonl:-", "--metrics", "off", "--log-format", "text").expect(t, 78, words...)
}

// TestNoReplicationRight: setup and run name the right and the role that lacks
// it.
func TestNoReplicationRight(t *testing.T) {
	t.Parallel()
	s := owned(t)
	s.exec("ALTER ROLE relay_" + s.pipeline + " NOREPLICATION")
	s.gives("--broker", "jsonl:-").expect(t, 77, "privilege", `ALTER ROLE "relay_`+s.pipeline+`" REPLICATION`)
	plain := login(t, devtest.Database(t), "")
	u, err := url.Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	r := outboxd(t, "setup", "--database", plain)
	r.expect(t, 77, "privilege", "may not create a replication slot", `ALTER ROLE "`+u.User.Username()+`" REPLICATION`, "GRANT CREATE ON DATABASE", "nothing was changed")
}

// TestSlotMissing: the fix is the command with the flags that mean this very
// pipeline.
func TestSlotMissing(t *testing.T) {
	t.Parallel()
	s := owned(t, "--slot", "slot_of_mine", "--publication", "Publication of mine")
	flags := []string{"--slot", "slot_of_mine", "--publication", "Publication of mine", "--broker", "jsonl:-"}
	s.exec("SELECT pg_drop_replication_slot('slot_of_mine')")
	s.gives(flags...).expect(t, 78, "slot_missing", `slot "slot_of_mine" is gone`, "was published",
		"outboxd adopt --pipeline "+s.pipeline+" --slot slot_of_mine --publication 'Publication of mine'", "outboxd replay --pipeline "+s.pipeline+" --slot slot_of_mine")
	s.exec("DELETE FROM outboxd.witness")
	s.gives(flags...).expect(t, 78, "slot_missing", `slot "slot_of_mine" does not exist`,
		"outboxd setup --pipeline "+s.pipeline+" --slot slot_of_mine --publication 'Publication of mine'", "--setup")
}

// TestSlotRecreated: somebody dropped the slot and made it again. The relay
// does not go on by itself; adopt shows the gap, and accepts it when told the
// pipeline's name.
func TestSlotRecreated(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	first := discreet(s.run(out.broker()...))
	first.ready()
	s.write(1, 2)
	out.expect(1, 2)
	if code := first.term(); code != 0 {
		t.Fatalf("exit code %d after SIGTERM", code)
	}
	adopt := func(answer string, flags ...string) result {
		return outboxdIn(t, answer, append([]string{"adopt", "--database", s.relay, "--pipeline", s.pipeline}, flags...)...)
	}
	adopt("").expect(t, 0, "no gap")

	s.exec("SELECT pg_drop_replication_slot('" + s.slot() + "')")
	s.write(3, 3)
	s.exec("SELECT pg_create_logical_replication_slot('" + s.slot() + "', 'pgoutput')")
	s.gives(out.broker()...).expect(t, 78, "slot_foreign", s.slot(), "recreated, or advanced by someone else", "outboxd adopt --pipeline "+s.pipeline)

	witness := func() string { return s.value("SELECT w::text FROM outboxd.witness w") }
	before := witness()
	for _, answer := range []string{"", "yes\n", "other_" + s.pipeline + "\n"} {
		adopt(answer).expect(t, 1, "found", "recreated, or advanced by someone else", "published", "goes on", "epoch 2", "unconfirmed", "nothing was changed", "type "+s.pipeline+", or give --yes")
	}
	if after := witness(); after != before {
		t.Errorf("a wrong answer changed the witness from %s to %s", before, after)
	}
	s.gives(out.broker()...).expect(t, 78, "slot_foreign")
	adopt(s.pipeline+"\n").expect(t, 0, "accepted")
	second := discreet(s.run(out.broker()...))
	second.ready()
	s.write(4, 4)
	eventually(t, 10*time.Second, "the event after the gap arrives", func() bool { return len(out.numbers()) == 3 })
	if got := out.numbers(); got[2] != 4 {
		t.Errorf("events %v arrived, want 1, 2 and 4", got)
	}
}

// TestSlotLost: the server removed WAL that the slot needed. Nothing goes on by
// itself, and the fix works.
func TestSlotLost(t *testing.T) {
	t.Parallel()
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	s, out := newSite(t, owner(t, server.URL("postgres", "postgres"))), newLines(t)
	eventually(t, 30*time.Second, "the slot is lost", func() bool {
		s.exec("CREATE TABLE IF NOT EXISTS busy (); INSERT INTO busy DEFAULT VALUES")
		s.exec("SELECT pg_switch_wal()")
		s.exec("CHECKPOINT")
		return s.value("SELECT wal_status FROM pg_replication_slots") == "lost"
	})
	s.gives(out.broker()...).expect(t, 78, "slot_lost", s.slot(), "can no longer be read",
		"outboxd adopt --pipeline "+s.pipeline, "outboxd replay --pipeline "+s.pipeline)
	flags := []string{"--database", s.admin, "--pipeline", s.pipeline}
	outboxd(t, append([]string{"setup"}, flags...)...).expect(t, 78, "slot_lost", s.slot(), "outboxd adopt --pipeline "+s.pipeline)
	s.write(1, 2)
	outboxd(t, "adopt", "--database", s.relay, "--pipeline", s.pipeline, "--yes").
		expect(t, 0, "was invalidated", "missing    at most 2 rows", "dropped", "created", "accepted", "epoch 2", "outboxd replay --pipeline "+s.pipeline)
	outboxd(t, append([]string{"replay", "--database", s.relay, "--pipeline", s.pipeline, "--gap"}, out.broker()...)...).expect(t, 0, "published  2 records")
	out.expect(1, 2)
	discreet(s.run(out.broker()...)).ready()
	s.write(3, 4)
	out.expect(1, 4)
}

// TestPublicationWithoutTable: nothing would ever come; both commands say so.
func TestPublicationWithoutTable(t *testing.T) {
	t.Parallel()
	s := owned(t)
	alter := "ALTER PUBLICATION outboxd_" + s.pipeline + " DROP TABLE outbox"
	s.exec(alter)
	words := []string{"publication_gap", "outboxd_" + s.pipeline, "does not cover", "public.outbox", "ADD TABLE", "LOCK TABLE"}
	s.gives("--broker", "jsonl:-").expect(t, 78, append(words, "outboxd adopt --pipeline "+s.pipeline)...)
	outboxd(t, "setup", "--database", s.admin, "--pipeline", s.pipeline).expect(t, 78, words...)
	s.exec("DROP PUBLICATION outboxd_" + s.pipeline)
	s.gives("--broker", "jsonl:-").expect(t, 78, "publication_missing", "outboxd_"+s.pipeline, "does not exist", "CREATE PUBLICATION", "outboxd adopt --pipeline "+s.pipeline)
}

// TestTableOutOfPublicationForAWhile: afterwards everything looks as before,
// and yet events are missing from the stream.
func TestTableOutOfPublicationForAWhile(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	first := discreet(s.run(out.broker()...))
	first.ready()
	s.write(1, 1)
	out.expect(1, 1)
	if code := first.term(); code != 0 {
		t.Fatalf("exit code %d after SIGTERM", code)
	}
	s.exec("ALTER PUBLICATION outboxd_" + s.pipeline + " DROP TABLE outbox")
	s.write(2, 2)
	s.exec("ALTER PUBLICATION outboxd_" + s.pipeline + " ADD TABLE outbox")
	s.gives(out.broker()...).expect(t, 78, "publication_gap", "outboxd_"+s.pipeline, "public.outbox", "taken out of it and put back",
		"outboxd adopt --pipeline "+s.pipeline, "outboxd replay --pipeline "+s.pipeline)
	out.expect(1, 1)
	outboxd(t, "adopt", "--database", s.relay, "--pipeline", s.pipeline, "--yes").expect(t, 0, "found", "taken out of it and put back", "accepted")
	s.replay(out, "--gap").expect(t, 0, "published  2 records")
	second := discreet(s.run(out.broker()...))
	second.ready()
	s.write(3, 3)
	eventually(t, 10*time.Second, "the event after the gap arrives", func() bool { return slices.Equal(out.numbers(), []int{1, 1, 2, 3}) })
}

// TestTableLacksColumns: all of them are named at once.
func TestTableLacksColumns(t *testing.T) {
	t.Parallel()
	database := owner(t, devtest.Database(t))
	s := &site{t: t, admin: database}
	s.exec("CREATE TABLE events (event_id uuid, aggregatetype text, body json, created_at text)")
	r := outboxd(t, "setup", "--database", database, "--table", "public.events")
	r.expect(t, 78, "table_mismatch", "public.events", "--columns id=COLUMN", "nothing was changed",
		`no column "id"`, `no column "aggregateid"`, `no column "type"`, `no column "payload"`, `column "created_at"`)

	// At the start, not with the first event.
	s, out := owned(t), newLines(t)
	s.gives(append(out.broker(), "--columns", "type=kind,payload=body")...).
		expect(t, 78, "missing_columns", "public.outbox", "no column kind, body", "it has id, aggregatetype, aggregateid, type, payload", "--columns")
	if got := out.numbers(); len(got) != 0 {
		t.Errorf("events %v were published", got)
	}
	s.write(1, 1)
	discreet(s.run(out.broker()...))
	out.expect(1, 1)
}

// TestHotStandby: the second relay waits, says for whom, and takes over within
// a few seconds after the first was killed. One with another configuration
// stops.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	leader := discreet(s.run(out.broker()...))
	leader.says(http.StatusOK, "streaming")
	second := discreet(s.run(out.broker()...))
	second.says(http.StatusOK, "standby", s.slot(), "held by server process", "outboxd "+s.pipeline, "127.0.0.1")
	if second.metric("outboxd_leader") != 0 || leader.metric("outboxd_leader") != 1 {
		t.Error("the metric outboxd_leader does not tell leader and standby apart")
	}
	s.gives(append(out.broker(), "--format", "debezium")...).
		expect(t, 78, "config_mismatch", "pipeline "+s.pipeline, "give both relays the same flags", "--pipeline")
	s.write(1, 3)
	out.expect(1, 3)
	killed := time.Now()
	leader.kill()
	s.write(4, 6)
	eventually(t, 10*time.Second, "the standby takes over", func() bool { return second.metric("outboxd_leader") == 1 && len(out.numbers()) >= 6 })
	took := time.Since(killed)
	t.Logf("takeover in %s", took.Round(time.Millisecond))
	if took > 6*time.Second {
		t.Errorf("the takeover took %s", took)
	}
	// What was published since the last witness may come again, and no more.
	if got := out.numbers(); len(got) > 9 || got[len(got)-1] != 6 {
		t.Errorf("events %v arrived, want 1 to 6", got)
	}
}

// TestPortOfStandby: two relays on one host need two ports, which the second
// says before it does anything.
func TestPortOfStandby(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := owned(t)
	version := s.value("SELECT version::text FROM outboxd.witness")
	s.gives("--broker", "jsonl:-", "--metrics", l.Addr().String()).expect(t, 78, "metrics_address", l.Addr().String(), "--metrics 127.0.0.1:0")
	if now := s.value("SELECT version::text FROM outboxd.witness"); now != version {
		t.Error("the relay had taken the slot before it looked for its port")
	}
}

// TestSetup: it says what it did, does nothing twice, and --print nothing at
// all.
func TestSetup(t *testing.T) {
	t.Parallel()
	database := owner(t, devtest.Database(t))
	s := &site{t: t, admin: database}
	things := func() string {
		return s.value(`SELECT concat_ws(',', (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace), (SELECT count(*) FROM pg_publication),
			(SELECT count(*) FROM pg_replication_slots WHERE database = current_database()), (SELECT count(*) FROM pg_namespace WHERE nspname = 'outboxd'))`)
	}
	flags := []string{"--database", database, "--pipeline", "p_" + devtest.Name(t)}
	r := outboxd(t, append([]string{"setup", "--print"}, flags...)...)
	r.expect(t, 0, "CREATE TABLE", "CREATE PUBLICATION", "pg_create_logical_replication_slot", "max_slot_wal_keep_size")
	if got := things(); got != "0,0,0,0" {
		t.Fatalf("setup --print made things: %s", got)
	}
	r = outboxd(t, append([]string{"setup"}, flags...)...)
	r.expect(t, 0, "created        ", "replication slot", "publication", "table public.outbox", "max_slot_wal_keep_size")
	before := things()
	r = outboxd(t, append([]string{"setup"}, flags...)...)
	r.expect(t, 0, "already there")
	if strings.Contains(r.stdout, "created") || things() != before {
		t.Errorf("the second setup did something:\n%s", r.stdout)
	}
}

// TestTeardown: it asks, and drops tables only when told to.
func TestTeardown(t *testing.T) {
	t.Parallel()
	s := owned(t)
	teardown := func(answer string, flags ...string) result {
		return outboxdIn(t, answer, append([]string{"teardown", "--database", s.admin, "--pipeline", s.pipeline}, flags...)...)
	}
	slots := func() string {
		return s.value("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = '" + s.slot() + "'")
	}
	for _, answer := range []string{"", "y\n", "other\n"} {
		teardown(answer).expect(t, 1, "will drop", "replication slot "+s.slot(), "type the pipeline's name: "+s.pipeline, "nothing was changed", "--yes")
	}
	r := discreet(s.run("--broker", "jsonl:-"))
	r.ready()
	teardown("", "--yes").expect(t, 75, "slot_active", s.slot(), "outboxd "+s.pipeline, "stop the relay first")
	if code := r.term(); code != 0 || slots() != "1" {
		t.Fatalf("exit code %d, %s slots", code, slots())
	}
	teardown(s.pipeline+"\n").expect(t, 0, "dropped", "replication slot "+s.slot(), "kept", "--drop-tables was not given")
	if slots() != "0" || s.value("SELECT count(*)::text FROM outbox") != "0" {
		t.Error("the slot is still there, or the table is not")
	}
	teardown("", "--yes", "--drop-tables").expect(t, 0, "dropped", "table public.outbox")
	if got := s.value("SELECT coalesce(to_regclass('outbox')::text, 'none')"); got != "none" {
		t.Error("the table is still there")
	}
}
