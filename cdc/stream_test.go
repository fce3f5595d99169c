package cdc_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/migrations"
)

// fixture is a database with an outbox table, its publication and its slot.
type fixture struct {
	t    *testing.T
	cfg  cdc.Config
	conn *pgx.Conn
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return fixtureAt(t, devtest.Database(t))
}

func fixtureAt(t *testing.T, url string) *fixture {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	f := &fixture{t: t, conn: conn}
	name := devtest.Name(t)
	f.cfg = cdc.Config{Database: url, Pipeline: "p", Slot: name, Publication: name, Table: "public.outbox",
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	f.exec("CREATE TABLE outbox (id int, payload text)")
	f.exec("CREATE PUBLICATION " + name + " FOR TABLE outbox WITH (publish = 'insert')")
	f.createSlot()
	return f
}

func (f *fixture) createSlot() {
	f.t.Helper()
	f.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", f.cfg.Slot)
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.conn.Exec(context.Background(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) value(sql string, args ...any) string {
	f.t.Helper()
	var v string
	if err := f.conn.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (f *fixture) confirmed() cdc.LSN {
	f.t.Helper()
	var lsn cdc.LSN
	if err := lsn.Scan(f.value("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", f.cfg.Slot)); err != nil {
		f.t.Fatal(err)
	}
	return lsn
}

func (f *fixture) currentLSN() cdc.LSN {
	f.t.Helper()
	var lsn cdc.LSN
	if err := lsn.Scan(f.value("SELECT pg_current_wal_lsn()::text")); err != nil {
		f.t.Fatal(err)
	}
	return lsn
}

func (f *fixture) reader() *cdc.Reader {
	f.t.Helper()
	r, err := cdc.NewReader(f.cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// got is an event as a session delivered it.
type got struct {
	cdc.Delivery
	id string
}

// session is an open stream whose events arrive on a channel.
type session struct {
	t      *testing.T
	stream *cdc.Stream
	events chan got
	stop   context.CancelCauseFunc
	result chan error
}

var errStopped = errors.New("the test stops the session")

func (f *fixture) session(r *cdc.Reader) *session {
	f.t.Helper()
	stream, err := r.Open(f.t.Context())
	if err != nil {
		f.t.Fatalf("open: %v", err)
	}
	return run(f.t, stream)
}

func run(t *testing.T, stream *cdc.Stream) *session {
	ctx, stop := context.WithCancelCause(context.Background())
	s := &session{t: t, stream: stream, events: make(chan got, 10_000), stop: stop, result: make(chan error, 1)}
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		s.result <- stream.Run(ctx, func(_ context.Context, m *cdc.Message) error {
			id := string(m.Content)
			if m.Kind == cdc.Insert {
				id = string(m.Row[0].Bytes)
				if m.Row[0].Format == cdc.Binary {
					b, err := m.Row[0].AppendText(nil, m.Relation.Columns[0].Type)
					if err != nil {
						return err
					}
					id = string(b)
				}
			}
			if d, fresh := m.Next(); fresh {
				s.events <- got{d, id}
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		stop(errStopped)
		<-ran
		_ = stream.Close(context.Background())
	})
	return s
}

// take waits for n events.
func (s *session) take(n int) []got {
	s.t.Helper()
	var events []got
	deadline := time.After(20 * time.Second)
	for len(events) < n {
		select {
		case e := <-s.events:
			events = append(events, e)
		case err := <-s.result:
			s.t.Fatalf("the session ended after %d of %d events: %v", len(events), n, err)
		case <-deadline:
			s.t.Fatalf("%d of %d events after 20 s", len(events), n)
		}
	}
	return events
}

// close ends the session as a relay does on SIGTERM.
func (s *session) close() {
	s.t.Helper()
	s.stop(errStopped)
	if err := <-s.result; !errors.Is(err, errStopped) {
		s.t.Fatalf("run: %v", err)
	}
	if err := s.stream.Close(context.Background()); err != nil {
		s.t.Fatalf("close: %v", err)
	}
}

// ends waits for the session to fail with an *cdc.Error of code.
func (s *session) ends(code cdc.Code) *cdc.Error {
	s.t.Helper()
	select {
	case err := <-s.result:
		return wantCode(s.t, err, code)
	case <-time.After(30 * time.Second):
		s.t.Fatalf("the session goes on; want %s", code)
	}
	return nil
}

func wantCode(t *testing.T, err error, code cdc.Code) *cdc.Error {
	t.Helper()
	var e *cdc.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want an error with code %s", err, code)
	}
	return e
}

func ids(events []got) string {
	var s []string
	for _, e := range events {
		s = append(s, e.id)
	}
	return strings.Join(s, " ")
}

func ackAll(r *cdc.Reader, events []got) {
	for _, e := range events {
		r.Ack(e.Token)
	}
}

// eventually polls until ok or the limit.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func TestStreamDeliversWhatWasCommitted(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox VALUES (1)")
	f.exec("BEGIN; INSERT INTO outbox VALUES (2); ROLLBACK")
	f.exec("BEGIN; INSERT INTO outbox VALUES (3); SAVEPOINT a; INSERT INTO outbox VALUES (4); ROLLBACK TO a; INSERT INTO outbox VALUES (5); SELECT pg_logical_emit_message(true, 'x', 'message'); COMMIT")
	f.exec("BEGIN; SELECT pg_logical_emit_message(false, 'x', 'non-transactional'); ROLLBACK")
	f.exec("INSERT INTO outbox VALUES (6)")
	events := s.take(5)
	if got := ids(events); got != "1 3 5 message 6" {
		t.Errorf("got %s", got)
	}
	if !slices.IsSortedFunc(events, func(a, b got) int { return strings.Compare(a.Position.String(), b.Position.String()) }) {
		t.Errorf("positions do not rise: %v", events)
	}
	for i, ordinal := range []uint32{0, 0, 1, 2, 0} {
		if events[i].Position.Ordinal != ordinal || events[i].Position.Epoch != 1 {
			t.Errorf("event %s: position %v, want ordinal %d of epoch 1", events[i].id, events[i].Position, ordinal)
		}
	}
}

func TestConfirmedFollowsOnlyAcks(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	before := f.confirmed()
	f.exec("INSERT INTO outbox VALUES (1)")
	f.exec("INSERT INTO outbox VALUES (2)")
	f.exec("INSERT INTO outbox VALUES (3)")
	events := s.take(3)
	r.Ack(events[1].Token)
	r.Ack(events[2].Token)
	// Foreign WAL brings keepalives; they must not carry the position over the
	// event that is not acked.
	f.exec("CREATE TABLE other AS SELECT generate_series(1, 50000)")
	<-time.After(7 * time.Second)
	if got := f.confirmed(); got != before {
		t.Fatalf("confirmed %s with the first event not acked; it was %s", got, before)
	}
	r.Ack(events[0].Token)
	eventually(t, 10*time.Second, "confirmed reaches the acked position", func() bool { return f.confirmed() >= events[2].Position.Commit })
	got := f.confirmed() // before the look at the WAL, which others may be writing
	if end := f.currentLSN(); got > end {
		t.Errorf("confirmed %s, beyond the WAL %s", got, end)
	}
}

func TestWitnessIsNeverBehindConfirmed(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	watcher, err := pgx.Connect(t.Context(), f.cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close(context.Background())
	stop := make(chan struct{})
	violated := make(chan string, 1)
	go func() {
		defer close(violated)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// The slot first, in a statement of its own: whatever the witness
			// says later is later.
			var slot, witness string
			var behind bool
			err := watcher.QueryRow(context.Background(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", f.cfg.Slot).Scan(&slot)
			if err == nil {
				err = watcher.QueryRow(context.Background(), "SELECT acked_lsn::text, $1::pg_lsn > acked_lsn FROM outboxd.witness", slot).Scan(&witness, &behind)
			}
			if err != nil || behind {
				violated <- fmt.Sprintf("confirmed %s, witness %s, %v", slot, witness, err)
				return
			}
		}
	}()
	for i := range 40 {
		f.exec("INSERT INTO outbox SELECT $1 FROM generate_series(1, 50)", i)
		ackAll(r, s.take(50))
		<-time.After(100 * time.Millisecond)
	}
	close(stop)
	for v := range violated {
		t.Error(v)
	}
}

func TestReconnectSkipsWhatIsAcked(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox SELECT generate_series(1, 5)")
	f.exec("INSERT INTO outbox SELECT generate_series(6, 8)")
	events := s.take(8)
	for _, i := range []int{0, 1, 3, 6} {
		r.Ack(events[i].Token)
	}
	f.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", f.cfg.Slot)
	s.ends(cdc.CodeUnreachable)
	_ = s.stream.Close(t.Context())
	var again *session
	eventually(t, 5*time.Second, "the slot is free", func() bool {
		stream, err := r.Open(t.Context())
		if err == nil {
			again = run(t, stream)
		}
		return err == nil
	})
	rest := again.take(4)
	if got := ids(rest); got != "3 5 6 8" {
		t.Errorf("the next session delivers %s, want 3 5 6 8", got)
	}
	for _, e := range rest {
		for _, was := range events {
			if was.id == e.id && was.Position != e.Position {
				t.Errorf("event %s: position %v, before %v", e.id, e.Position, was.Position)
			}
		}
	}
	ackAll(r, rest)
	f.exec("INSERT INTO outbox VALUES (9)")
	if got := ids(again.take(1)); got != "9" {
		t.Errorf("then %s, want 9", got)
	}
}

// A new process knows what the witness says, to the event.
func TestNewProcessSkipsWhatWitnessSays(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox SELECT generate_series(1, 5)")
	f.exec("INSERT INTO outbox VALUES (6)")
	events := s.take(6)
	ackAll(r, events[:3])
	s.close()
	s = f.session(f.reader())
	events = s.take(3)
	if got := ids(events); got != "4 5 6" {
		t.Errorf("got %s, want 4 5 6", got)
	}
	if events[0].Position.Ordinal != 3 {
		t.Errorf("the fourth event has ordinal %d", events[0].Position.Ordinal)
	}
}

// A crash loses what was acked after the last witness, and no more.
func TestCrashRepeatsAtMostASecond(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox VALUES (1)")
	ackAll(r, s.take(1))
	eventually(t, 5*time.Second, "the witness is written", func() bool { return f.value("SELECT acked_events::text FROM outboxd.witness") == "1" })
	f.exec("INSERT INTO outbox VALUES (2)")
	s.take(1) // not acked
	// The process is gone: nobody closes the session.
	f.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", f.cfg.Slot)
	s.ends(cdc.CodeUnreachable)
	var again *session
	eventually(t, 5*time.Second, "the slot is free", func() bool {
		stream, err := f.reader().Open(t.Context())
		if err == nil {
			again = run(t, stream)
		}
		return err == nil
	})
	if got := ids(again.take(1)); got != "2" {
		t.Errorf("got %s, want 2", got)
	}
}

func TestIdleSlotFollowsBusyServer(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{}) // nobody else writes there
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	f := fixtureAt(t, server.URL("postgres", "postgres"))
	f.session(f.reader())
	f.exec("CREATE TABLE other (a text) WITH (autovacuum_enabled = off)")
	f.exec("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 40000)")
	target := f.currentLSN()
	eventually(t, 10*time.Second, "the slot follows", func() bool { return f.confirmed() >= target })

	// And an idle server sees no write of ours. Its own housekeeping may take a
	// while to end.
	for range 6 {
		version, before := f.value("SELECT version::text FROM outboxd.witness"), f.currentLSN()
		<-time.After(8 * time.Second)
		if f.currentLSN() > before+16<<10 {
			continue
		}
		if now := f.value("SELECT version::text FROM outboxd.witness"); now != version {
			t.Errorf("the witness went from version %s to %s on an idle server", version, now)
		}
		return
	}
	t.Error("the server never was idle")
}

// The stream calls a table as it was called when the row was written. It is the
// pipeline's all the same: what was written before it got its name, or while it
// was elsewhere, is no row of somebody else's.
func TestTableIsKnownByAnyName(t *testing.T) {
	f := newFixture(t)
	do(
		"INSERT INTO outbox VALUES (1)",
		"ALTER TABLE outbox RENAME TO events",
		"CREATE SCHEMA elsewhere",
		"ALTER TABLE events SET SCHEMA elsewhere",
		"INSERT INTO elsewhere.events VALUES (2)",
		"ALTER TABLE elsewhere.events SET SCHEMA public",
		"CREATE TABLE outbox (id int)",
		"ALTER PUBLICATION {} ADD TABLE outbox",
		"INSERT INTO outbox VALUES (3)",
	)(f)
	f.cfg.Table = "public.events"
	stream, err := f.reader().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close(context.Background())
	var names []string
	err = stream.Run(t.Context(), func(_ context.Context, m *cdc.Message) error {
		names = append(names, m.Relation.Schema+"."+m.Relation.Name)
		if len(names) == 3 {
			return errStopped
		}
		return nil
	})
	if got, want := strings.Join(names, " "), "public.events public.events public.outbox"; err != errStopped || got != want {
		t.Errorf("rows of %s, %v; want %s", got, err, want)
	}
}

// A column may get a type that is read in text format only, or may have had one
// when rows were written that are still to come. They are read so then, and none
// is taken for an event that cannot be decoded.
func TestColumnTypesMayChange(t *testing.T) {
	f := newFixture(t)
	r := f.led(1)
	s := f.session(r)
	f.exec("ALTER TABLE outbox ALTER id TYPE numeric")
	f.exec("INSERT INTO outbox VALUES (2)")
	s.ends(cdc.CodeColumnTypes)
	_ = s.stream.Close(t.Context())
	f.exec("ALTER TABLE outbox ALTER id TYPE int")
	f.exec("INSERT INTO outbox VALUES (3)")
	f.free()
	r = f.reader() // one that finds a table whose types it can read
	s = f.session(r)
	s.ends(cdc.CodeColumnTypes)
	_ = s.stream.Close(t.Context())
	f.free()
	s = f.session(r)
	if got := ids(s.take(2)); got != "2 3" {
		t.Errorf("got %s, want 2 3", got)
	}
}
