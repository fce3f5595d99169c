package cdc

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/migrations"
)

// Only a slot in our own hands is a proof, and its date is that of the question:
// when the answer is read, the slot may be somebody else's.
func TestLeaseIsProvenByOurOwnPIDWhenAsked(t *testing.T) {
	tests := []struct {
		name    string
		holder  []any
		renewed bool
		want    Code
	}{
		{"held by us", []any{pid}, true, ""},
		{"held by nobody", []any{0}, false, ""},
		{"held by another", []any{pid + 1}, false, CodeLostLead},
		{"gone", nil, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &puppet{t: t, answer: func(string) ([]any, string) {
					time.Sleep(3 * time.Second)
					return tt.holder, ""
				}}
				k := p.keeper()
				time.Sleep(time.Minute)
				if err := k.renewLease(t.Context()); code(err) != tt.want {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				var want time.Duration
				if tt.renewed {
					want = time.Minute
				}
				if got := time.Duration(k.s.leasedAt.Load()); got != want {
					t.Errorf("the lease dates from %s after the start, want %s", got, want)
				}
			})
		})
	}
}

// What is released to the status writer is what the server has taken, and a
// witness that was not written leaves it where it was.
func TestPositionIsReleasedByTheWrittenWitness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sqlstate := "55P03"
		p := &puppet{t: t, answer: func(string) ([]any, string) { return nil, sqlstate }}
		k := p.keeper()
		if err := k.write(t.Context(), progress{confirm: 100}, time.Now()); err == nil || k.s.durable.Load() != 0 {
			t.Errorf("after an update that failed (%v): %s may be confirmed", err, LSN(k.s.durable.Load()))
		}
		sqlstate = ""
		if err := k.write(t.Context(), progress{confirm: 100}, time.Now()); err != nil || k.s.durable.Load() != 100 {
			t.Errorf("after the update (%v): %s may be confirmed", err, LSN(k.s.durable.Load()))
		}
	})
}

// writes are the moments of attempts to write a witness, counted from the start.
type writes chan time.Duration

func (w writes) sinceLastAsked() (list []time.Duration) {
	synctest.Wait()
	for len(w) > 0 {
		list = append(list, <-w)
	}
	return list
}

// slotFigures is what readSlotStats scans, of a slot that keeps nothing.
func slotFigures() []any { return []any{0, 0, 0, "", 0, 0, 0} }

// busyKeeper returns one that runs, in a session that holds its slot. Its server
// refuses the witness with that SQLSTATE.
func busyKeeper(t *testing.T, refuses string) (*keeper, writes) {
	t.Helper()
	started, attempts := time.Now(), make(writes, 1000)
	p := &puppet{t: t, answer: func(sql string) ([]any, string) {
		switch {
		case strings.Contains(sql, "FROM pg_publication p"):
			return []any{true, true, true, "", "", []uint32{}, []string{}, "1.1:", 0, 0}, ""
		case strings.Contains(sql, "active_pid"):
			return []any{pid}, ""
		case strings.Contains(sql, "synchronous_standby_names"):
			return []any{""}, ""
		case strings.HasPrefix(sql, "UPDATE"):
			attempts <- time.Since(started)
			return nil, refuses
		}
		return slotFigures(), ""
	}}
	k := p.keeper()
	k.floorAt = started.Add(time.Hour) // no floor is looked for
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { k.run(ctx) })
	t.Cleanup(func() { stop(); done.Wait() })
	return k, attempts
}

// publish has the only event of the transaction at commit acked, and then its
// end.
func (k *keeper) publish(commit LSN) {
	token, _ := k.s.r.queue.event(place{commit: commit}, time.Now())
	k.s.r.queue.mark(commit + 20)
	k.s.r.Ack(token)
}

// A relay that is killed before its first second is over must not begin with the
// same events again each time. After that once a second is enough, and an idle
// server is left alone.
func TestFirstAcksAreWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, writes := busyKeeper(t, "")
		for _, step := range []struct {
			at   time.Duration
			does func()
			want []time.Duration
		}{
			{100 * time.Millisecond, func() { k.publish(100) }, []time.Duration{100 * time.Millisecond}},
			{200 * time.Millisecond, func() { k.publish(200) }, nil},
			{1099 * time.Millisecond, func() { k.publish(300) }, nil},
			{1100 * time.Millisecond, nil, []time.Duration{1100 * time.Millisecond}},
			{2099 * time.Millisecond, func() { k.publish(400) }, nil},
			{20 * time.Second, func() { k.s.r.queue.mark(500) }, []time.Duration{2100 * time.Millisecond}},
			{30500 * time.Millisecond, func() { k.publish(600) }, []time.Duration{30500 * time.Millisecond}},
		} {
			time.Sleep(step.at - time.Since(k.s.started))
			if step.does != nil {
				step.does()
			}
			if got := writes.sinceLastAsked(); !slices.Equal(got, step.want) {
				t.Errorf("at %s: written at %v, want %v", step.at, got, step.want)
			}
		}
		if k.s.durable.Load() != 620 {
			t.Errorf("%s may be confirmed", LSN(k.s.durable.Load()))
		}
	})
}

// Acks do not drive a server that refuses the witness: once a second is enough.
func TestRefusedWitnessIsTriedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, writes := busyKeeper(t, "25006")
		time.Sleep(500 * time.Millisecond)
		for i := range LSN(500) {
			k.publish(100 * (i + 1))
			time.Sleep(10 * time.Millisecond)
		}
		if got := writes.sinceLastAsked(); len(got) > 6 || k.s.durable.Load() != 0 {
			t.Errorf("tried at %v; %s may be confirmed", got, LSN(k.s.durable.Load()))
		}
	})
}

// An event may be acked before the end of its transaction is read. That end is
// worth a write of its own: without it a transaction that is published whole
// would stand in the witness as one that is not, and be published again under
// another configuration.
func TestEndBehindAckedEventIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, writes := busyKeeper(t, "")
		time.Sleep(500 * time.Millisecond)
		token, _ := k.s.r.queue.event(place{commit: 100}, time.Now())
		k.s.r.Ack(token)
		synctest.Wait()
		k.s.r.queue.mark(120)
		time.Sleep(10 * time.Second)
		got, want := writes.sinceLastAsked(), []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}
		if !slices.Equal(got, want) || k.s.durable.Load() != 120 {
			t.Errorf("written at %v, want %v; %s may be confirmed, want 0/78", got, want, LSN(k.s.durable.Load()))
		}
	})
}

// Transactions below xmin have ended when it is read, and so have written their
// commit records before a position that is read after it, not before.
func TestFloorIsReadBeforeItsPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		p := &puppet{t: t, answer: func(sql string) ([]any, string) {
			if strings.Contains(sql, "xmin") {
				asked = append(asked, "xmin")
				return []any{"740"}, ""
			}
			asked = append(asked, "position")
			return []any{"0/5000"}, ""
		}}
		k := p.keeper()
		take := func(want floor) {
			t.Helper()
			if err := k.takeFloor(t.Context()); err != nil || k.floor != want {
				t.Errorf("floor %+v, %v; want %+v", k.floor, err, want)
			}
		}
		time.Sleep(floorInterval - 1)
		take(floor{})
		time.Sleep(time.Nanosecond)
		take(floor{xmin: "740", lsn: 0x5000})
		time.Sleep(2 * floorInterval)
		take(floor{xmin: "740", lsn: 0x5000}) // the next one when this is written
		if !slices.Equal(asked, []string{"xmin", "position"}) {
			t.Errorf("asked for %v", asked)
		}
	})
}

// newWitness returns a connection to a database with the witness w in it.
func newWitness(t *testing.T, database string, w *witness) (*pgx.Conn, *Config) {
	t.Helper()
	cfg := &Config{Database: database, Pipeline: "p", Slot: "s", Publication: "p"}
	db, err := sql.Open("pgx", cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	conn, err := connectSQL(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSQL(conn) })
	if err := insertWitness(t.Context(), conn, cfg, w); err != nil {
		t.Fatal(err)
	}
	return conn, cfg
}

// Of two who read the same witness, only the first can write it.
func TestWitnessIsFencedByItsVersion(t *testing.T) {
	first := witness{timeline: 1, epoch: 1, slot: "s", floor: "0"}
	conn, cfg := newWitness(t, devtest.Database(t), &first)
	second := first
	first.acked.confirm, second.acked.confirm = 100, 50
	if err := updateWitness(t.Context(), conn, cfg, &first); err != nil {
		t.Fatal(err)
	}
	if err := updateWitness(t.Context(), conn, cfg, &second); code(err) != CodeLostLead {
		t.Errorf("the second write: %v", err)
	}
	if w, err := readWitness(t.Context(), conn, "p"); err != nil || w.acked.confirm != 100 {
		t.Errorf("acked %s, %v", w.acked.confirm, err)
	}
}

// An update whose answer was lost with the connection may have been made. Only
// one that is signed by us is ours.
func TestLostAnswerIsLookedUp(t *testing.T) {
	for _, signed := range []bool{true, false} {
		row := witness{timeline: 1, epoch: 1, slot: "s", floor: "0"}
		conn, cfg := newWitness(t, devtest.Database(t), &row)
		s := newScripted(t, nil)
		s.r.cfg.Database = cfg.Database
		k := &keeper{s: s, conn: conn, witness: row}

		row.acked.confirm = 100
		if signed {
			row.holder = s.r.holder
		}
		if err := updateWitness(t.Context(), conn, cfg, &row); err != nil {
			t.Fatal(err)
		}
		closeSQL(conn)
		k.dueSince = time.Now().Add(-time.Hour)
		if err := k.query(func(context.Context) error { return nil }); err != nil || k.dueSince.IsZero() != signed {
			t.Errorf("our own update %v: %v, a witness is due since %s", signed, err, k.dueSince)
		}
		err := k.query(func(ctx context.Context) error { return k.write(ctx, progress{confirm: 200}, time.Now()) })
		t.Cleanup(func() { closeSQL(k.conn) })
		if signed && (err != nil || s.durable.Load() != 200) {
			t.Errorf("goes on from our own update: %v, %s may be confirmed", err, LSN(s.durable.Load()))
		}
		if !signed && (code(err) != CodeLostLead || s.durable.Load() != 0) {
			t.Errorf("goes on from another's update: %v, %s may be confirmed", err, LSN(s.durable.Load()))
		}
	}
}

// A publication that is found in order was so for what is acked by then, not for
// what is acked while it is looked at.
func TestPublicationIsInOrderForWhatWasAckedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k *keeper
		p := &puppet{t: t, answer: func(sql string) ([]any, string) {
			switch {
			case strings.Contains(sql, "FROM pg_publication p"):
				k.s.r.queue.mark(200)
				return []any{true, true, true, "", "", []uint32{}, []string{}, "1.1:", 0, 0}, ""
			case strings.Contains(sql, "synchronous_standby_names"):
				return []any{""}, ""
			}
			return slotFigures(), ""
		}}
		k = p.keeper()
		k.s.r.queue.mark(100)
		if err := k.inspect(t.Context()); err != nil || k.checked != 100 {
			t.Errorf("in order up to %s, %v; want 0/64", k.checked, err)
		}
	})
}

// The floor is the oldest transaction that has not ended, and it is written when
// all that ended before is acked, not earlier.
func TestFloorIsWrittenWhenAllBelowItIsAcked(t *testing.T) {
	w := &witness{timeline: 1, epoch: 1, slot: "s", floor: "0"}
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{}) // others' transactions would be older
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	conn, cfg := newWitness(t, server.URL("postgres", "postgres"), w)
	k := &keeper{s: newScripted(t, nil), conn: conn, witness: *w, floorAt: time.Now().Add(-floorInterval)}

	running, err := pgx.Connect(t.Context(), cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer closeSQL(running)
	if _, err := running.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	var oldest string
	if err := running.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text").Scan(&oldest); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE younger ()"); err != nil {
		t.Fatal(err)
	}
	var end LSN // of that younger transaction
	if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()").Scan(&end); err != nil {
		t.Fatal(err)
	}
	if err := k.takeFloor(t.Context()); err != nil || k.floor.lsn < end {
		t.Fatalf("floor %+v, %v; the WAL ended at %s before", k.floor, err, end)
	}
	at := k.floor.lsn
	for _, step := range []struct {
		checked, acked LSN // where the publication was last found in order
		want           string
	}{{at - 1, at - 1, "0"}, {at - 1, at, "0"}, {at, at, oldest}, {at, at + 1, oldest}} {
		k.checked = step.checked
		if err := k.write(t.Context(), progress{confirm: step.acked}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if w, err := readWitness(t.Context(), conn, "p"); err != nil || w.floor != step.want {
			t.Errorf("with %s acked the replay floor is %s, want %s; %v", step.acked, w.floor, step.want, err)
		}
	}
}
