package replay_test

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/replay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/publisher"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// fixture is a database with an event table that setup made, and a broker.
type fixture struct {
	*broker
	t    *testing.T
	url  string
	conn *pgx.Conn
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{broker: &broker{}, t: t, url: devtest.Database(t)}
	f.conn = f.dial()
	err := setup.Apply(t.Context(), setup.Options{Database: f.url, Pipeline: devtest.Name(t)}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) dial() *pgx.Conn {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) value(sql string, args ...any) string {
	f.t.Helper()
	var v string
	if err := f.conn.QueryRow(f.t.Context(), sql, args...).Scan(&v); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

const insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), 'order', 'one', n::text, '{}' FROM generate_series($1::int, $2::int) n"

// write commits events whose types are the numbers from first to last.
func (f *fixture) write(first, last int) {
	f.t.Helper()
	exec(f.t, f.conn, insert, first, last)
}

// replay is one of everything, to be changed.
func (f *fixture) replay() *replay.Replay {
	f.t.Helper()
	format, err := record.New(record.Options{Pipeline: "p", Topic: "{aggregatetype}"})
	if err != nil {
		f.t.Fatal(err)
	}
	return &replay.Replay{
		Database: f.url, Table: "public.outbox", Select: replay.Selection{From: "0"}, OpenPublisher: f.open, Format: format,
		DrainTimeout: 10 * time.Second, Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil)),
	}
}

func (f *fixture) run(r *replay.Replay) replay.Summary {
	f.t.Helper()
	s, err := r.Run(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// broker takes records in memory. Like every publisher it is broken for good
// once it has refused one: what comes behind that is given up.
type broker struct {
	mu      sync.Mutex
	records []*publisher.Record
	opened  int
	// publishing is the context of the last Publish.
	publishing context.Context
	// refuse is asked for each record, under the lock.
	refuse func(r *publisher.Record) error
	closes func() // runs before Close returns
}

type session struct {
	*broker
	done   publisher.Done
	queue  chan *publisher.Record
	ended  sync.WaitGroup
	closed sync.Once
	broken error
}

func (b *broker) open(_ context.Context, done publisher.Done, _ publisher.Guard) (publisher.Publisher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened++
	s := &session{broker: b, done: done, queue: make(chan *publisher.Record, 100)}
	s.ended.Go(s.work)
	return s, nil
}

// work settles records on a goroutine of its own.
func (s *session) work() {
	for r := range s.queue {
		s.mu.Lock()
		err := error(nil)
		if s.broken != nil {
			err = publisher.ErrAborted
		} else if s.refuse != nil {
			err = s.refuse(r)
			s.broken = err
		}
		if err == nil {
			s.records = append(s.records, r)
		}
		s.mu.Unlock()
		s.done(r, err)
	}
}

func (s *session) Publish(ctx context.Context, r *publisher.Record) error {
	s.mu.Lock()
	s.publishing = ctx
	err := s.broken
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case s.queue <- r:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) Close(context.Context) error {
	s.closed.Do(func() { close(s.queue) })
	s.ended.Wait()
	if s.closes != nil {
		s.closes()
	}
	return nil
}

// types are those of the records, in their order.
func (b *broker) types() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, r := range b.records {
		all = append(all, r.Type)
	}
	return strings.Join(all, " ")
}

// header returns the value of a record's header, "none" when it has none.
func header(r *publisher.Record, name string) string {
	i := slices.IndexFunc(r.Headers, func(h publisher.Header) bool { return h.Name == name })
	if i < 0 {
		return "none"
	}
	return string(r.Headers[i].Value)
}

var columns = relay.Columns{ID: "event_id", Payload: "body"}
