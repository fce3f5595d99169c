package cdc_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/internal/devenv"
)

// witnessLimit is how long a witness may take on a busy machine.
const witnessLimit = 10 * time.Second

// lockWitness keeps everybody from writing the witness until the end.
func (f *fixture) lockWitness() (unlock func()) {
	f.t.Helper()
	other, err := pgx.Connect(f.t.Context(), f.cfg.Database)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = other.Close(context.Background()) })
	if _, err := other.Exec(f.t.Context(), "BEGIN; SELECT FROM outboxd.witness FOR UPDATE"); err != nil {
		f.t.Fatal(err)
	}
	return func() { _, _ = other.Exec(context.Background(), "ROLLBACK") }
}

// shortTimeout makes the server impatient, and so the session.
func (f *fixture) shortTimeout() {
	f.t.Helper()
	f.exec("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET wal_sender_timeout = 6000', current_database()); END $$")
}

// A relay that cannot write the witness must not go on as if nothing were: it
// would publish what a crash repeats, and confirm nothing.
func TestWitnessThatCannotBeWrittenEndsSession(t *testing.T) {
	f := newFixture(t)
	f.shortTimeout()
	r := f.reader()
	s := f.session(r)
	unlock := f.lockWitness()
	before := f.confirmed()
	f.exec("INSERT INTO outbox VALUES (1)")
	ackAll(r, s.take(1))
	err := s.ends(cdc.CodeWitness)
	if !strings.Contains(err.Fix, "lock") || !strings.Contains(err.Error(), "55P03") {
		t.Errorf("%v, fix %q: the cause is not named", err, err.Fix)
	}
	if got := f.confirmed(); got != before {
		t.Errorf("confirmed %s without a witness", got)
	}
	unlock()
	if err := s.stream.Close(t.Context()); err != nil {
		t.Errorf("close with the witness writable again: %v", err)
	}
	if got := f.value("SELECT acked_events::text FROM outboxd.witness"); got != "1" {
		t.Errorf("the last witness says %s acked events", got)
	}
}

func TestRevokedWitnessEndsSession(t *testing.T) {
	f := newFixture(t)
	login("REPLICATION", "right", "GRANT USAGE ON SCHEMA outboxd TO {}", "GRANT SELECT, INSERT, UPDATE ON outboxd.witness TO {}")(f)
	r := f.reader()
	s := f.session(r)
	f.exec("REVOKE UPDATE ON outboxd.witness FROM " + f.cfg.Slot)
	f.exec("INSERT INTO outbox VALUES (1)")
	ackAll(r, s.take(1))
	s.ends(cdc.CodePrivilege)
}

func TestOpenIsBounded(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	defer f.lockWitness()()
	began := time.Now()
	f.refuses(cdc.CodeWitness)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("open took %s", took)
	}
}

func TestCloseIsBounded(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	defer f.lockWitness()()
	f.exec("INSERT INTO outbox VALUES (1)")
	ackAll(r, s.take(1))
	<-time.After(1500 * time.Millisecond) // a tick waits for the row
	s.stop(errStopped)
	<-s.result
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	if err := s.stream.Close(ctx); err == nil {
		t.Error("close says that the position is durable")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("close took %s, 1 s was given", took)
	}
}

// A slot that has a past under another name is not there to be adopted.
func TestSlotOfAnotherPipelineIsRefused(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("INSERT INTO outbox VALUES (2)")
	f.cfg.Pipeline = "q"
	if err := f.refuses(cdc.CodeSlotWrong); !strings.Contains(err.Detail, "belongs to pipeline p") {
		t.Errorf("%q does not name the owner", err.Detail)
	}
	f.cfg.Pipeline = "p"
	s := f.session(f.reader())
	if got := ids(s.take(1)); got != "2" {
		t.Errorf("got %s", got)
	}
}

// The bound that a gap is named with holds: what was missed lies behind it.
func TestPublicationGapIsBounded(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	<-time.After(1500 * time.Millisecond) // the first inspection is over
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " DROP TABLE outbox")
	missed := f.currentLSN()
	f.exec("INSERT INTO outbox VALUES (1)")
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " ADD TABLE outbox")
	f.exec("INSERT INTO outbox VALUES (2)")
	events := s.take(1)
	if events[0].id != "2" {
		t.Fatalf("got %s", events[0].id)
	}
	ackAll(r, events)
	eventually(t, witnessLimit, "the witness is written", func() bool { return f.value("SELECT acked_events::text FROM outboxd.witness") == "1" })
	inside := func(err *cdc.Error) {
		t.Helper()
		_, after, _ := strings.Cut(err.Detail, "after ")
		word, _, _ := strings.Cut(after, ",")
		var bound cdc.LSN
		if scanErr := bound.Scan(word); scanErr != nil || bound > missed {
			t.Errorf("an event was missed at %s; the error says %q", missed, err.Detail)
		}
	}
	inside(s.ends(cdc.CodePublicationGap))
	_ = s.stream.Close(context.Background())
	inside(f.refuses(cdc.CodePublicationGap)) // also for a process that was not there
}

// door is a port in front of a server that can be shut, and that can change
// what the server says, length kept.
type door struct {
	shut       atomic.Bool
	from, into string
}

func (d *door) open(t *testing.T, to string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if d.shut.Load() {
				_ = c.Close()
				continue
			}
			go d.forward(c, to)
		}
	}()
	return l.Addr().String()
}

func (d *door) forward(c net.Conn, to string) {
	defer c.Close()
	u, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer u.Close()
	go func() {
		_, _ = io.Copy(u, c)
		_ = u.(*net.TCPConn).CloseWrite()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := u.Read(buf)
		said := buf[:n]
		if d.from != "" {
			said = []byte(strings.ReplaceAll(string(said), d.from, d.into))
		}
		if _, werr := c.Write(said); werr != nil || err != nil {
			return
		}
	}
}

// A fast shutdown is noticed whatever language the server speaks, and also
// where new connections are refused by something in front of it.
func TestShutdownIsNoticedThroughDoor(t *testing.T) {
	tests := []struct {
		name  string
		door  *door
		shut  bool
		limit time.Duration
	}{
		{"another language", &door{from: "shutting down", into: "herunterfahrn"}, false, 5 * time.Second},
		{"a balancer refuses", &door{}, true, 15 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			f := fixtureAt(t, server.URL("postgres", "postgres"))
			direct := f.cfg.Database
			u, err := url.Parse(direct)
			if err != nil {
				t.Fatal(err)
			}
			u.Host = tt.door.open(t, u.Host)
			f.cfg.Database = u.String()
			r := f.reader()
			f.cfg.Database = direct
			stream, err := r.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			delivered := make(chan struct{}, 10)
			go func() { // what a relay does while its broker hangs
				err := stream.Run(context.Background(), func(_ context.Context, m *cdc.Message) error {
					m.Next()
					delivered <- struct{}{}
					return nil
				})
				_ = stream.Close(context.Background())
				ended <- err
			}()
			f.exec("INSERT INTO outbox VALUES (1)")
			<-delivered
			tt.door.shut.Store(tt.shut)
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := server.Stop(ctx, "fast"); err != nil || time.Since(began) > tt.limit {
				t.Errorf("the fast shutdown took %s: %v", time.Since(began), err)
			}
			if err := <-ended; err == nil {
				t.Error("the session ended without an error")
			}
		})
	}
}
