package replay_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/replay"
	"github.com/outboxd/outboxd/publisher"
)

// The rows are published as the relay would, in the order of seq whatever
// partitions they lie in, marked, and without a position.
func TestReplay(t *testing.T) {
	f := newFixture(t)
	const payload = `{ "n":1,"n" : 2, "big": 9007199254740993, "nul": "\u0000", "é": "🙂" }`
	for i := range 20 {
		exec(t, f.conn, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers, bucket, created_at)
			VALUES (gen_random_uuid(), 'order', 'o-1', $1, $2, '{"tenant": "acme"}', (7 * $3) % 8, '2026-03-01T12:00:00.123456Z')`, fmt.Sprint(i), payload, i)
	}
	exec(t, f.conn, "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'order', 'o-1', 'NULL')")
	s := f.run(f.replay())
	if got, want := f.types(), "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 NULL"; got != want {
		t.Fatalf("published %s\nwant %s", got, want)
	}
	if s.Published != 21 || s.Poison != 0 || !s.Any || s.First.Seq != 1 || s.Last.Seq != 21 {
		t.Errorf("summary %+v", s)
	}
	r := f.records[0]
	for name, want := range map[string]string{
		"outboxd-replayed": "true", "ce_sequence": "none", "tenant": "acme", "ce_time": "2026-03-01T12:00:00.123456Z",
		"ce_id": f.value("SELECT id::text FROM outbox WHERE seq = 1"), "content-type": "application/json",
	} {
		if got := header(r, name); got != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	if r.Topic != "order" || string(r.Key) != "o-1" || string(r.Value) != payload {
		t.Errorf("record %s %s %s", r.Topic, r.Key, r.Value)
	}
	if last := f.records[20]; last.Value != nil {
		t.Errorf("the payload NULL became %q", last.Value)
	}
}

func TestSelections(t *testing.T) {
	f := newFixture(t)
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range 5 {
		exec(t, f.conn, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, created_at)
			VALUES (gen_random_uuid(), 'order', 'o-1', $1, $2)`, fmt.Sprint(i), begin.Add(time.Duration(i)*time.Minute))
	}
	at := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
	id := func(n int) string { return f.value("SELECT id::text FROM outbox WHERE type = $1", fmt.Sprint(n)) }
	for _, tt := range []struct {
		name  string
		sel   replay.Selection
		want  string
		found int
	}{
		{"from a time", replay.Selection{Since: at(2)}, "2 3 4", 0},
		{"from and until a time", replay.Selection{Since: at(1), Until: at(3)}, "1 2", 0},
		{"a time with a zone", replay.Selection{Since: at(3).In(time.FixedZone("", 5*3600))}, "3 4", 0},
		{"ids", replay.Selection{IDs: []string{strings.ToUpper(id(3)), id(1), id(3), "00000000-0000-0000-0000-000000000000"}}, "1 3", 2},
		{"a transaction", replay.Selection{From: f.value("SELECT xid::text FROM outbox WHERE type = '3'")}, "3 4", 0},
		{"nothing", replay.Selection{Since: at(5)}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.records = nil
			r := f.replay()
			r.Select = tt.sel
			p, err := r.Preview(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if want := len(strings.Fields(tt.want)); p.Rows != int64(want) || f.opened > 0 && f.types() != "" {
				t.Errorf("the preview has %d rows, want %d, and published %q", p.Rows, want, f.types())
			}
			s := f.run(r)
			if got := f.types(); got != tt.want {
				t.Errorf("published %q, want %q", got, tt.want)
			}
			if len(s.IDs) != tt.found {
				t.Errorf("found %v, want %d ids", s.IDs, tt.found)
			}
			if s.Any && (p.First != s.First || p.Last != s.Last) {
				t.Errorf("preview %+v, summary %+v", p, s)
			}
		})
	}
	r := f.replay()
	r.Select = replay.Selection{IDs: []string{"no uuid"}}
	_, err := r.Run(t.Context())
	wantCode(t, err, cdc.CodeConfig)
}

func wantCode(t *testing.T, err error, code cdc.Code) *cdc.Error {
	t.Helper()
	var e *cdc.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	return e
}

// What a broker does not take is published again, behind what it has; and a row
// with a lower seq, whose transaction ended meanwhile, is not forgotten.
func TestReplayGoesOnAfterFault(t *testing.T) {
	f := newFixture(t)
	late := f.dial()
	exec(t, late, "BEGIN")
	exec(t, late, "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'order', 'two', 'late')")
	f.write(1, 1000)
	f.refuse = func(r *publisher.Record) error {
		if r.Type == "500" && f.opened == 1 {
			return publisher.ErrUnknown
		}
		return nil
	}
	f.closes = func() { // between the attempts
		if f.opened == 1 {
			exec(t, late, "COMMIT")
		}
	}
	s := f.run(f.replay())
	got := strings.Fields(f.types())
	seen := map[string]int{}
	for i, typ := range got {
		seen[typ]++
		if i > 0 && typ != "late" && got[i-1] != "late" && !next(got[i-1], typ) {
			t.Errorf("%s comes behind %s", typ, got[i-1])
		}
	}
	if len(seen) != 1001 || seen["late"] != 1 || seen["500"] != 1 || seen["499"] != 1 || s.Published != 1001 {
		t.Errorf("published %d different events, 499 %d times, 500 %d times, the late one %d times; summary %+v", len(seen), seen["499"], seen["500"], seen["late"], s)
	}
}

// next says whether number b may follow number a: it does not leave one out.
func next(a, b string) bool {
	var m, n int
	_, err1 := fmt.Sscan(a, &m)
	_, err2 := fmt.Sscan(b, &n)
	return err1 == nil && err2 == nil && n <= m+1
}

func TestReplayFailsFast(t *testing.T) {
	f := newFixture(t)
	f.write(1, 10)
	held := &publisher.HeldError{Reason: "missing_topic", Target: "order"}
	f.refuse = func(r *publisher.Record) error {
		if r.Type == "5" {
			return held
		}
		return nil
	}
	r := f.replay()
	r.FailFast = true
	s, err := r.Run(t.Context())
	if !errors.Is(err, held) || s.Published != 4 || s.Resume.Seq != 5 {
		t.Errorf("summary %+v, %v", s, err)
	}
	// The rest, as another process would.
	f.refuse = nil
	r = f.replay()
	r.Select.Resume, err = replay.ParseResume(s.Resume.String())
	if err != nil {
		t.Fatal(err)
	}
	f.run(r)
	if got := f.types(); got != "1 2 3 4 5 6 7 8 9 10" {
		t.Errorf("published %s", got)
	}
}

// A row that cannot be published is left out, whoever finds that, and all others
// are published.
func TestReplayLeavesPoisonOut(t *testing.T) {
	f := newFixture(t)
	f.write(1, 3)
	exec(t, f.conn, "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'no topic', 'one', '4')")
	f.write(5, 9)
	f.refuse = func(r *publisher.Record) error {
		if r.Type == "2" || r.Type == "7" {
			return &publisher.PoisonError{Reason: "too_large", Detail: "2 MB"}
		}
		return nil
	}
	s := f.run(f.replay())
	seen := map[string]bool{}
	for _, typ := range strings.Fields(f.types()) {
		seen[typ] = true
	}
	if len(seen) != 6 || seen["2"] || seen["4"] || seen["7"] || s.Poison != 3 || s.Last.Seq != 9 {
		t.Errorf("published %s; summary %+v", f.types(), s)
	}
}

// What is parked comes back by its own way, in its order.
func TestReplayLeavesOutWhatIsParked(t *testing.T) {
	f := newFixture(t)
	f.write(1, 5)
	const park = `INSERT INTO outboxd.parked (pipeline, position, id, payload_kind, commit_time, size, reason, state)
		SELECT $1, type, convert_to(id::text, 'UTF8'), 'json', now(), 1, 'too_large', $3 FROM outbox WHERE type = $2`
	exec(t, f.conn, park, "p", "2", "parked")
	exec(t, f.conn, park, "p", "3", "discarded")
	exec(t, f.conn, park, "another", "4", "parked")
	r := f.replay()
	r.Select.Parked = "p"
	f.run(r)
	if got := f.types(); got != "1 4 5" {
		t.Errorf("published %s", got)
	}
	exec(t, f.conn, "DROP TABLE outboxd.parked") // nobody parks
	r = f.replay()
	r.Select.Parked = "p"
	f.run(r)
	if got := f.types(); got != "1 4 5 1 2 3 4 5" {
		t.Errorf("published %s", got)
	}
}

// A stop waits for what is on its way and says where to go on.
func TestReplayStops(t *testing.T) {
	f := newFixture(t)
	f.write(1, 100)
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.refuse = func(r *publisher.Record) error {
		if r.Type == "50" {
			cancel(stop)
		}
		return nil
	}
	s, err := f.replay().Run(ctx)
	if !errors.Is(err, stop) {
		t.Fatalf("ended with %v", err)
	}
	if n := len(f.records); n < 50 || s.Published != uint64(n) || s.Resume.Seq != int64(n+1) {
		t.Errorf("%d records, summary %+v", n, s)
	}
	f.refuse = nil
	r := f.replay()
	r.Select.Resume = s.Resume
	f.run(r)
	if n := len(f.records); n != 100 {
		t.Errorf("%d records in the end, want each event once", n)
	}
}

// lease is taken, held until released, or lost.
type lease struct {
	lost     chan error
	released bool
}

func (l *lease) Guard() error { return nil }

func (l *lease) Hold(ctx context.Context) error {
	select {
	case err := <-l.lost:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *lease) Close(context.Context) error {
	l.released = true
	return nil
}

// The lease outlives every record, and what is to be done at the end happens
// under it; who loses it publishes no more until it has it again.
func TestReplayUnderLease(t *testing.T) {
	f := newFixture(t)
	f.write(1, 100)
	var leases []*lease
	lost := errors.New("lost")
	f.closes = func() {
		if leases[len(leases)-1].released {
			t.Error("the lease was given back before the publisher was closed")
		}
	}
	f.refuse = func(r *publisher.Record) error {
		if r.Type == "20" && len(leases) == 1 {
			leases[0].lost <- lost
			<-f.publishing.Done() // the attempt is told
		}
		return nil
	}
	r := f.replay()
	r.Lease = func(context.Context) (replay.Lease, error) {
		if len(leases) == 1 && !leases[0].released {
			t.Error("a second lease while the first is held")
		}
		leases = append(leases, &lease{lost: make(chan error, 1)})
		return leases[len(leases)-1], nil
	}
	finished := 0
	r.Finish = func(_ context.Context, s replay.Summary) error {
		finished++
		if leases[len(leases)-1].released || s.Last.Seq != 100 {
			t.Errorf("finished with %+v, the lease given back: %t", s, leases[len(leases)-1].released)
		}
		return nil
	}
	f.run(r)
	if len(leases) != 2 || finished != 1 || !leases[1].released {
		t.Errorf("%d leases, finished %d times", len(leases), finished)
	}
	// A relay has the slot, from the beginning or since the lease was lost.
	for taken := range 2 {
		r, attempts := f.replay(), 0
		r.Lease = func(context.Context) (replay.Lease, error) {
			if attempts++; attempts > taken {
				return nil, &cdc.Error{Code: cdc.CodeSlotActive}
			}
			l := &lease{lost: make(chan error, 1)}
			l.lost <- lost
			return l, nil
		}
		_, err := r.Run(t.Context())
		wantCode(t, err, cdc.CodeSlotActive)
		if attempts != taken+1 {
			t.Errorf("%d attempts, want %d", attempts, taken+1)
		}
	}
}

// A table that setup did not make has neither seq nor xid: its rows come by
// time, and what needs the two is refused.
func TestReplayOfExistingTable(t *testing.T) {
	f := newFixture(t)
	exec(t, f.conn, `CREATE DOMAIN document AS text`)
	exec(t, f.conn, `CREATE TABLE events (event_id bigint PRIMARY KEY, aggregatetype text, aggregateid int, type text, body document, created_at timestamp)`)
	exec(t, f.conn, `INSERT INTO events SELECT n, 'order', 7, n, n, '2026-03-01 12:00:00'::timestamp - n / 2 * interval '1 minute' FROM generate_series(1, 6) n`)
	r := f.replay()
	r.Table, r.Columns = "public.events", columns
	r.Select = replay.Selection{Since: time.Date(2026, 3, 1, 11, 57, 30, 0, time.UTC)}
	s := f.run(r)
	if got := f.types(); got != "4 5 2 3 1" {
		t.Errorf("published %s", got)
	}
	if got := header(f.records[0], "content-type"); got != "text/plain; charset=utf-8" {
		t.Errorf("content type %s, as the relay has it for a domain", got)
	}
	if s.First.Seq != 0 || s.First.ID != "4" || s.Resume != (replay.Resume{}) {
		t.Errorf("summary %+v", s)
	}
	for _, sel := range []replay.Selection{{From: "0"}, {IDs: []string{"1"}, Resume: replay.Resume{Seq: 1, Snapshot: "1:1:"}}} {
		r.Select = sel
		_, err := r.Run(t.Context())
		wantCode(t, err, cdc.CodeConfig)
	}
	exec(t, f.conn, "ALTER TABLE events DROP COLUMN created_at")
	r.Select = replay.Selection{Since: time.Now()}
	_, err := r.Run(t.Context())
	wantCode(t, err, cdc.CodeConfig)
	r.Select = replay.Selection{IDs: []string{"6", "2"}}
	f.records = nil
	f.run(r)
	if got := f.types(); got != "2 6" || header(f.records[0], "ce_time") == "none" {
		t.Errorf("published %s", got)
	}
	r.Table = "public.nowhere"
	_, err = r.Run(t.Context())
	wantCode(t, err, cdc.CodeConfig)
	r.Table, r.Columns = "public.events", relay.Columns{}
	var missing *relay.MissingColumnsError
	if _, err := r.Run(t.Context()); !errors.As(err, &missing) {
		t.Errorf("columns that are not there: %v", err)
	}
}

// Nobody who writes is in the way, nor is a rotation held up for good: the only
// lock is the weakest.
func TestReplayLocks(t *testing.T) {
	f := newFixture(t)
	f.write(1, 10)
	var locks string
	f.refuse = func(*publisher.Record) error {
		if locks == "" {
			locks = f.value(`SELECT string_agg(DISTINCT mode, ',') FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
				WHERE c.relnamespace = 'public'::regnamespace AND pid <> pg_backend_pid() AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
			f.write(11, 11)
		}
		return nil
	}
	f.run(f.replay())
	if locks != "AccessShareLock" {
		t.Errorf("locks: %s", locks)
	}
	if got := f.types(); got != "1 2 3 4 5 6 7 8 9 10" {
		t.Errorf("published %s, want what the snapshot has", got)
	}
}

// Memory is bounded by what is in flight, whatever the number of rows.
func TestReplayBoundsWhatIsInFlight(t *testing.T) {
	f := newFixture(t)
	f.write(1, 60_000)
	most := 0
	r := f.replay()
	r.OpenPublisher = func(_ context.Context, done publisher.Done, _ publisher.Guard) (publisher.Publisher, error) {
		return &slow{done: done, most: &most}, nil
	}
	s := f.run(r)
	if s.Published != 60_000 || most > 20_000 {
		t.Errorf("published %d, %d in flight at once", s.Published, most)
	}
}

// slow acks a record only when nothing more comes for a moment.
type slow struct {
	done    publisher.Done
	most    *int
	held    []*publisher.Record
	timer   *time.Timer
	settled chan struct{}
}

func (s *slow) Publish(_ context.Context, r *publisher.Record) error {
	if s.timer != nil && !s.timer.Stop() {
		<-s.settled
	}
	s.held = append(s.held, r)
	*s.most = max(*s.most, len(s.held))
	s.settled = make(chan struct{})
	s.timer = time.AfterFunc(20*time.Millisecond, func() {
		held := s.held
		s.held = nil
		close(s.settled)
		for _, r := range held {
			s.done(r, nil)
		}
	})
	return nil
}

func (s *slow) Close(context.Context) error { return nil }

func TestResume(t *testing.T) {
	for _, text := range []string{"4711/790:801:790,795", "1/3:3:"} {
		if r, err := replay.ParseResume(text); err != nil || r.String() != text {
			t.Errorf("%q became %q, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "4711", "x/3:3:", "1/3:3", "1/3:3:'"} {
		if _, err := replay.ParseResume(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if got := (replay.Resume{}).String(); got != "" {
		t.Errorf("the beginning is %q", got)
	}
}
