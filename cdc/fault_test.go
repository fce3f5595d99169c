package cdc_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/internal/devenv"
)

// open tries to open a session and expects to be told why not.
func (f *fixture) refuses(code cdc.Code) *cdc.Error {
	f.t.Helper()
	stream, err := f.reader().Open(f.t.Context())
	if err == nil {
		_ = stream.Close(context.Background())
		f.t.Fatalf("the session opened; want %s", code)
	}
	return wantCode(f.t, err, code)
}

// free waits until the server has noticed that the last session is over.
func (f *fixture) free() {
	f.t.Helper()
	eventually(f.t, witnessLimit, "the slot is free", func() bool {
		return f.value("SELECT (active_pid IS NULL)::text FROM pg_replication_slots WHERE slot_name = $1", f.cfg.Slot) == "true"
	})
}

// led makes the pipeline one with a past: n events published and confirmed. It
// returns the reader that remembers.
func (f *fixture) led(n int) *cdc.Reader {
	f.t.Helper()
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox SELECT generate_series(1, $1::int)", n)
	ackAll(r, s.take(n))
	s.close()
	return r
}

// do returns a change: statements, run one by one. {} stands for the name that
// the slot, the publication and the role of the test have in common.
func do(statements ...string) func(*fixture) {
	return func(f *fixture) {
		for _, s := range statements {
			f.exec(strings.ReplaceAll(s, "{}", f.cfg.Slot))
		}
	}
}

// past returns a change that comes after an event was published and confirmed.
func past(change func(*fixture)) func(*fixture) {
	return func(f *fixture) {
		f.led(1)
		change(f)
	}
}

// login returns a change that makes a role with these attributes, in which the
// reader then logs in.
func login(attributes, password string, grants ...string) func(*fixture) {
	return func(f *fixture) {
		do("CREATE ROLE {} LOGIN PASSWORD 'right' " + attributes)(f)
		f.t.Cleanup(func() { do("DROP OWNED BY {}", "DROP ROLE {}")(f) })
		do(grants...)(f)
		u, err := url.Parse(f.cfg.Database)
		if err != nil {
			f.t.Fatal(err)
		}
		u.User = url.UserPassword(f.cfg.Slot, password)
		f.cfg.Database = u.String()
	}
}

// TestOpenNamesWhatIsWrong changes one thing at a time and expects its name,
// and a word of the detail and of the fix that an operator needs.
func TestOpenNamesWhatIsWrong(t *testing.T) {
	const (
		dropSlot    = "SELECT pg_drop_replication_slot('{}')"
		createSlot  = "SELECT pg_create_logical_replication_slot('{}', 'pgoutput')"
		missed      = "INSERT INTO outbox VALUES (2)"
		dropTable   = "ALTER PUBLICATION {} DROP TABLE outbox"
		addTable    = "ALTER PUBLICATION {} ADD TABLE outbox"
		useSchema   = "GRANT USAGE ON SCHEMA outboxd TO {}"
		useWitness  = "GRANT SELECT, INSERT, UPDATE ON outboxd.witness TO {}"
		partitioned = "CREATE TABLE outbox (id int, payload text) PARTITION BY LIST (id)"
		partition   = "CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES IN (1)"
	)
	physical := func(f *fixture) {
		do(dropSlot, "SELECT pg_create_physical_replication_slot('{}')")(f)
		f.t.Cleanup(func() { do(dropSlot)(f) })
	}
	elsewhere := func(f *fixture) {
		f.cfg.Database = strings.Replace(f.cfg.Database, "/"+f.conn.Config().Database, "/nowhere", 1)
	}
	nobody := func(f *fixture) { f.cfg.Database = "postgres://postgres:canary@127.0.0.1:1/x" }

	tests := []struct {
		name   string
		change func(f *fixture)
		code   cdc.Code
		detail string
		fix    string
	}{
		{"schema missing", do("DROP SCHEMA outboxd CASCADE"), cdc.CodeNotSetUp, "schema outboxd", "outboxd setup"},
		{"slot never existed", do(dropSlot), cdc.CodeSlotMissing, "does not exist", "outboxd setup"},
		{"slot dropped", past(do(dropSlot)), cdc.CodeSlotMissing, "is gone; everything up to", "outboxd replay --pipeline p --gap"},
		{"slot recreated", past(do(dropSlot, missed, createSlot)), cdc.CodeSlotForeign, "recreated, or advanced", "outboxd adopt"},
		{"slot advanced", past(do(missed, "SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())")), cdc.CodeSlotForeign, "recreated, or advanced", "outboxd adopt"},
		{"slot of another plugin", physical, cdc.CodeSlotWrong, "plugin", "--slot"},
		{"publication missing", do("DROP PUBLICATION {}"), cdc.CodePublication, "does not exist", "older than its slot"},
		{"table missing", do("DROP TABLE outbox"), cdc.CodePublicationGap, "public.outbox does not exist", "--table"},
		{"table not covered", do(dropTable), cdc.CodePublicationGap, "does not cover the table public.outbox", `ADD TABLE "public"."outbox"; COMMIT; then outboxd adopt --pipeline `},
		{"inserts not published", do("ALTER PUBLICATION {} SET (publish = 'delete')"), cdc.CodePublicationGap, "does not publish inserts", "publish = 'insert'"},
		{"rows filtered", do("ALTER PUBLICATION {} SET TABLE outbox WHERE (id > 5)"), cdc.CodePublicationGap, "filters the rows", "SET TABLE"},
		{"partitions under their own names", do("DROP TABLE outbox", partitioned, partition, addTable), cdc.CodePublicationGap, "is partitioned", "publish_via_partition_root"},
		{"table out of the publication and back", past(do(dropTable, missed, addTable)), cdc.CodePublicationGap, "taken out of it and put back", "outboxd adopt"},
		{"another cluster", past(do("UPDATE outboxd.witness SET system_id = '42'")), cdc.CodeSystemChanged, "system identifier", "outboxd adopt"},
		{"an older timeline", past(do("UPDATE outboxd.witness SET timeline = timeline + 1")), cdc.CodeRestored, "timeline", "current primary"},
		{"wrong password", login("REPLICATION", "wrong-canary"), cdc.CodeAuth, "log in", "password"},
		{"no database of that name", elsewhere, cdc.CodeDatabaseMissing, "open the database", "--database"},
		{"nobody listens", nobody, cdc.CodeUnreachable, "connect to the database", "check host and port in --database"},
		{"no right to connect", func(f *fixture) {
			login("REPLICATION", "right")(f)
			f.exec("DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$")
		}, cdc.CodePrivilege, "connect to the database", "GRANT CONNECT"},
		{"no replication right", login("", "right", useSchema, useWitness), cdc.CodePrivilege, "replication connection", `ALTER ROLE "`},
		{"database read-only", do("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$"),
			cdc.CodeWitness, "write the witness", "default_transaction_read_only"},
		{"witness not granted", login("REPLICATION", "right"), cdc.CodePrivilege, "witness", "--relay-role"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			tt.change(f)
			err := f.refuses(tt.code)
			if !strings.Contains(err.Error(), tt.detail) || !strings.Contains(err.Fix, tt.fix) {
				t.Errorf("error %q\nfix %q\nwant %q and %q in them", err, err.Fix, tt.detail, tt.fix)
			}
			if strings.Contains(err.Error()+err.Fix, "canary") {
				t.Errorf("the error shows the password: %q", err)
			}
		})
	}
}

// A change between setup and the first session is noticed, once the witness
// that setup wrote is sealed.
func TestSealedPublicationIsComparedByFirstSession(t *testing.T) {
	f := newFixture(t)
	f.exec(`INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, acked_lsn)
		SELECT 'p', system_identifier::text, 1, 1, slot_name, slot_name, confirmed_flush_lsn FROM pg_control_system(), pg_replication_slots WHERE slot_name = $1`, f.cfg.Slot)
	if err := cdc.Seal(t.Context(), f.conn, f.cfg); err != nil {
		t.Fatal(err)
	}
	f.session(f.reader()).close()
	f.exec("UPDATE outboxd.witness SET publication_fingerprint = ''")
	if err := cdc.Seal(t.Context(), f.conn, f.cfg); err != nil {
		t.Fatal(err)
	}
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " DROP TABLE outbox")
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " ADD TABLE outbox")
	if err := cdc.Seal(t.Context(), f.conn, f.cfg); err != nil { // changes nothing
		t.Fatal(err)
	}
	f.refuses(cdc.CodePublicationGap)
}

// The connection of the witness may be lost without harm, also in the middle of
// a write.
func TestWitnessConnectionIsReplaced(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	for i := range 6 {
		f.exec("INSERT INTO outbox VALUES ($1)", i)
		ackAll(r, s.take(1))
		f.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = 'outboxd p' AND datname = current_database() AND backend_type = 'client backend'`)
		<-time.After(600 * time.Millisecond)
	}
	f.exec("INSERT INTO outbox VALUES (7)")
	events := s.take(1)
	ackAll(r, events)
	eventually(t, 10*time.Second, "the witness follows", func() bool {
		return f.value("SELECT acked_commit::text FROM outboxd.witness") == events[0].Position.Commit.String()
	})
	s.close()
}

// A table's name is taken as the catalog has it, not folded to lower case.
func TestTableNameIsNotFolded(t *testing.T) {
	f := newFixture(t)
	f.exec(`CREATE TABLE "Out box" (id int)`)
	f.exec(`ALTER PUBLICATION ` + f.cfg.Publication + ` ADD TABLE "Out box"`)
	f.cfg.Table = "public.Out box"
	s := f.session(f.reader())
	f.exec(`INSERT INTO "Out box" VALUES (1)`)
	s.take(1)
}

func TestAdoptAcceptsGap(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	f.exec("INSERT INTO outbox VALUES (2)") // lost to the slot
	f.createSlot()
	f.refuses(cdc.CodeSlotForeign)

	gap, err := cdc.FindGap(t.Context(), f.cfg, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if len(gap.Findings) != 1 || gap.Epoch != 2 || gap.Acked >= gap.Slot {
		t.Fatalf("gap %+v", gap)
	}
	f.refuses(cdc.CodeSlotForeign) // finding alone changes nothing
	if at, err := gap.Accept(t.Context(), f.cfg); err != nil || at != gap.Slot {
		t.Fatalf("accepted at %s, %v; the slot stands at %s", at, err, gap.Slot)
	}
	s := f.session(f.reader())
	f.exec("INSERT INTO outbox VALUES (3)")
	e := s.take(1)[0]
	if e.id != "3" || e.Position.Epoch != 2 {
		t.Errorf("event %s at %v, want 3 in epoch 2", e.id, e.Position)
	}
	s.close()
	if gap, err := cdc.FindGap(t.Context(), f.cfg, cdc.Position{}); err != nil || len(gap.Findings) != 0 {
		t.Errorf("afterwards: %+v, %v", gap, err)
	}
	if _, err := gap.Accept(t.Context(), f.cfg); err == nil {
		t.Error("a gap that was found before others wrote the witness is accepted")
	}
}

func TestStandbyIsToldWhoHoldsSlot(t *testing.T) {
	f := newFixture(t)
	leader := f.session(f.reader())
	err := f.refuses(cdc.CodeSlotActive)
	if !strings.Contains(err.Detail, "outboxd p") {
		t.Errorf("%q does not name the holder", err.Detail)
	}
	same := f.cfg
	f.cfg.ConfigHash = "another"
	f.refuses(cdc.CodeSlotActive) // the leader has no hash: an old one
	f.cfg = same
	leader.close()

	f.cfg.ConfigHash = "one"
	leader = f.session(f.reader())
	f.refuses(cdc.CodeSlotActive)
	f.cfg.ConfigHash = "another"
	f.refuses(cdc.CodeConfigMismatch)
	leader.close()
	f.session(f.reader()).close() // a changed configuration is fine when nobody leads
}

// Under another configuration the ordinals may count other events: what is acked
// of a transaction is then published again.
func TestOtherConfigurationPublishesTransactionWhole(t *testing.T) {
	f := newFixture(t)
	f.cfg.ConfigHash = "one"
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox SELECT generate_series(1, 3)")
	ackAll(r, s.take(3)[:2])
	s.close()
	f.cfg.ConfigHash = "another"
	if got := ids(f.session(f.reader()).take(1)); got != "1" {
		t.Errorf("got %s, want 1", got)
	}
}

// A leader that was stopped and overtaken must not touch the witness again.
func TestOvertakenLeaderIsFenced(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox VALUES (1)")
	events := s.take(1)
	f.exec("UPDATE outboxd.witness SET version = version + 1, holder = 'the successor'")
	ackAll(r, events)
	s.ends(cdc.CodeLostLead)
	if got := f.value("SELECT acked_events::text FROM outboxd.witness"); got != "0" {
		t.Errorf("the overtaken leader wrote %s acked events", got)
	}
}

func TestRestoredDatabaseIsNoticed(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("CREATE TABLE backup AS SELECT * FROM outboxd.witness")
	f.exec("INSERT INTO outbox VALUES (1)")
	ackAll(r, s.take(1))
	s.close()
	version := f.value("SELECT version::text FROM outboxd.witness")
	for _, restored := range []string{
		"DELETE FROM outboxd.witness; INSERT INTO outboxd.witness SELECT * FROM backup",
		// Then another relay leads, for as many writes as were lost.
		"UPDATE outboxd.witness SET published_position = '', holder = 'another relay', version = " + version,
		"DELETE FROM outboxd.witness",
	} {
		f.exec(restored)
		f.free()
		_, err := r.Open(t.Context())
		wantCode(t, err, cdc.CodeRestored)
	}
}

// What another relay published while this one was away is not published again,
// and what this one remembers counts no more.
func TestAnotherRelayLedInBetween(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox SELECT generate_series(1, 5)")
	ackAll(r, s.take(5)[:1])
	s.close()
	other := f.reader()
	s = f.session(other)
	ackAll(other, s.take(4)[:2])
	s.close()
	s = f.session(r)
	if got := ids(s.take(2)); got != "4 5" {
		t.Errorf("got %s, want 4 5", got)
	}
}

func TestPublicationChangeIsNoticedWhileRunning(t *testing.T) {
	f := newFixture(t)
	s := f.session(f.reader())
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " DROP TABLE outbox")
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " ADD TABLE outbox")
	s.ends(cdc.CodePublicationGap)
}

// The status writer keeps the session alive however long a handler blocks, and
// the lease is renewed.
func TestBlockedHandlerKeepsSession(t *testing.T) {
	f := newFixture(t)
	f.exec("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET wal_sender_timeout = 2000', current_database()); END $$")
	stream, err := f.reader().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close(context.Background())
	f.exec("INSERT INTO outbox SELECT generate_series(1, 100000)") // more than the socket's buffers hold
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	n := 0
	err = stream.Run(ctx, func(ctx context.Context, m *cdc.Message) error {
		if n++; n == 10 {
			<-time.After(6 * time.Second)
			if err := stream.Guard(); err != nil {
				t.Errorf("the lease ran out beside a living server: %v", err)
			}
		}
		return nil
	})
	if err != context.DeadlineExceeded || n < 1000 {
		t.Errorf("after %d messages: %v", n, err)
	}
}

func TestGuardRefusesWithoutSignOfLife(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Settings: map[string]string{"wal_sender_timeout": "2000"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	f := fixtureAt(t, server.URL("postgres", "postgres"))
	s := f.session(f.reader())
	if err := s.stream.Guard(); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	s.ends(cdc.CodeUnreachable)
	eventually(t, 3*time.Second, "the guard refuses", func() bool { return s.stream.Guard() != nil })
}

func TestWALLevelIsNamed(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Settings: map[string]string{"wal_level": "replica"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	r, err := cdc.NewReader(cdc.Config{Database: server.URL("postgres", "postgres"), Pipeline: "p", Slot: "s", Publication: "p"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Open(t.Context())
	if e := wantCode(t, err, cdc.CodeWALLevel); !strings.Contains(e.Fix, "ALTER SYSTEM SET wal_level = 'logical'") {
		t.Errorf("fix %q", e.Fix)
	}
}

// A fast shutdown must not wait for a relay that is far behind: the server
// would send its whole backlog first, and nothing on the wire tells.
func TestFastShutdownIsNotHeldUp(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	f := fixtureAt(t, server.URL("postgres", "postgres"))
	stream, err := f.reader().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.exec("INSERT INTO outbox SELECT i, repeat('x', 400) FROM generate_series(1, 500000) i")
	slow := func(ctx context.Context, m *cdc.Message) error {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
		return context.Cause(ctx)
	}
	result := make(chan error, 1)
	go func() {
		err := stream.Run(context.Background(), slow)
		_ = stream.Close(context.Background())
		result <- err
	}()
	<-time.After(2 * time.Second)
	began := time.Now()
	if err := server.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-result, cdc.CodeServerStopping)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
}

func TestNewReaderRefusesWhatNeverWorks(t *testing.T) {
	for _, cfg := range []cdc.Config{
		{Pipeline: "", Slot: "s", Publication: "p"},
		{Pipeline: "p", Slot: "Bad Slot", Publication: "p"},
		{Pipeline: "p", Slot: "s", Publication: ""},
		{Pipeline: "p", Slot: "s", Publication: "p", Database: "postgres://user:canary@host:port/"},
	} {
		_, err := cdc.NewReader(cfg)
		e := wantCode(t, err, cdc.CodeConfig)
		if strings.Contains(e.Error(), "canary") {
			t.Errorf("the error shows the password: %v", e)
		}
	}
}
