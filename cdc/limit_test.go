package cdc_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
)

// wal makes the server write more than n MiB of WAL that no event is in.
func (f *fixture) wal(n int) {
	f.t.Helper()
	for range n {
		f.exec("SELECT pg_logical_emit_message(false, 'nobody', repeat('0123456789abcdef', 65536))")
	}
}

func (f *fixture) hasSlot() bool {
	f.t.Helper()
	return f.value("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1", f.cfg.Slot) == "1"
}

// asRelay makes the reader log in with what outboxd setup grants.
func (f *fixture) asRelay() {
	f.t.Helper()
	login("REPLICATION", "right", "GRANT USAGE ON SCHEMA outboxd TO {}", "GRANT SELECT, INSERT, UPDATE ON outboxd.witness TO {}",
		"GRANT SELECT, INSERT (pipeline, action, from_position, to_position, reason) ON outboxd.audit TO {}")(f)
}

// A slot that keeps too much is let go of by the session that has it, and
// dropped by the next, which says what is lost; what it names mends it.
func TestSlotBeyondLimitIsDropped(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("UPDATE outboxd.witness SET replay_floor = '740'")
	admin := f.cfg.Database
	f.asRelay()
	f.cfg.MaxRetainedWAL, f.cfg.DropSlot = 1<<30, true
	r := f.reader()
	first := f.session(r) // within the limit
	f.exec("INSERT INTO outbox VALUES (2)")
	ackAll(r, first.take(1))
	first.close()
	acked := f.confirmed()
	f.exec("INSERT INTO outbox VALUES (3)")
	f.wal(2)

	f.cfg.MaxRetainedWAL = 1 << 20
	named := f.refuses(cdc.CodeSlotDropped)
	if f.hasSlot() {
		t.Error("the slot is still there")
	}
	for _, want := range []string{f.cfg.Slot, "more than the 1048576", "everything up to " + acked.String() + " was published"} {
		if !strings.Contains(named.Detail, want) {
			t.Errorf("the error does not say %q: %s", want, named.Detail)
		}
	}
	if !strings.Contains(named.Fix, "outboxd adopt --pipeline p, then outboxd replay --pipeline p --gap") {
		t.Errorf("fix %q", named.Fix)
	}
	if got := f.audited(); !strings.HasPrefix(got, "drop-slot "+acked.String()+" ") || !strings.HasSuffix(got, " and may keep 1048576") {
		t.Errorf("audited: %s", got)
	}
	f.refuses(cdc.CodeSlotMissing) // it is never made again by itself
	f.cfg.Database = admin
	if gap := f.adopt(); !gap.NewSlot || gap.Floor != "740" || gap.Acked != acked {
		t.Errorf("gap %+v", gap)
	}
	f.cfg.MaxRetainedWAL = 1 << 30 // other tests write to the server too
	f.session(f.reader()).close()
}

// A session that stands when the limit is passed ends, and the next attempt
// drops the slot, once the server has noticed.
func TestSessionEndsBeyondLimit(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("INSERT INTO outbox VALUES (2)") // not acked: the slot stays
	f.cfg.MaxRetainedWAL, f.cfg.DropSlot = 64<<20, true
	r := f.reader()
	s := f.session(r)
	s.take(1)
	f.wal(66)
	s.ends(cdc.CodeRetainedWAL)
	_ = s.stream.Close(t.Context())
	eventually(t, 20*time.Second, "the slot is dropped", func() bool {
		_, err := r.Open(t.Context())
		var named *cdc.Error
		if !errors.As(err, &named) || named.Code != cdc.CodeSlotDropped && named.Code != cdc.CodeSlotActive {
			t.Fatalf("open: %v", err)
		}
		return named.Code == cdc.CodeSlotDropped
	})
}

// Without the choice to drop, the figures tell, and the log once, however many
// sessions there are.
func TestLimitIsToldOnce(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("INSERT INTO outbox VALUES (2)") // not acked: the slot stays
	f.wal(2)
	f.cfg.MaxRetainedWAL = 1 << 20
	var log bytes.Buffer
	f.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r := f.reader()
	for range 2 {
		opened := time.Now()
		s := f.session(r)
		eventually(t, 10*time.Second, "the slot is measured", func() bool { return r.Stats().Slot.At.After(opened) })
		if st := r.Stats().Slot; !st.Beyond() || st.RetainedLimit != 1<<20 {
			t.Errorf("figures %+v", st)
		}
		s.close()
	}
	if n := strings.Count(log.String(), "keeps more WAL than it may"); n != 1 {
		t.Errorf("said %d times that the slot keeps too much:\n%s", n, log.String())
	}
	if !f.hasSlot() {
		t.Error("the slot was dropped, and nobody asked for that")
	}
}

// What keeps too much is dropped only if it is ours, and only when asked.
func TestSlotThatIsNotOursIsNeverDropped(t *testing.T) {
	for name, change := range map[string]func(f *fixture){
		"not asked":           func(f *fixture) { f.cfg.DropSlot = false },
		"no limit":            func(f *fixture) { f.cfg.MaxRetainedWAL = 0 },
		"within the limit":    func(f *fixture) { f.cfg.MaxRetainedWAL = 1 << 40 },
		"unknown":             do("DELETE FROM outboxd.witness"),
		"not the witness's":   do("UPDATE outboxd.witness SET slot = 'another'"),
		"moved by somebody":   do("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", "SELECT pg_logical_emit_message(false, 'nobody', repeat('0123456789abcdef', 131072))"),
		"of another pipeline": do("UPDATE outboxd.witness SET slot = 'another'", "UPDATE outboxd.witness SET pipeline = 'q', slot = '{}'"),
		"of another plugin": do("SELECT pg_drop_replication_slot('{}')", "SELECT pg_create_logical_replication_slot('{}', 'test_decoding')",
			"SELECT pg_logical_emit_message(false, 'nobody', repeat('0123456789abcdef', 131072))", "UPDATE outboxd.witness SET acked_lsn = pg_current_wal_lsn()"),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.led(1)
			f.wal(2)
			f.cfg.MaxRetainedWAL, f.cfg.DropSlot = 1<<20, true
			change(f)
			if stream, err := f.reader().Open(t.Context()); err == nil {
				_ = stream.Close(context.Background())
			}
			if !f.hasSlot() {
				t.Error("the slot is gone")
			}
		})
	}
}

// A slot that somebody streams from stays: a standby waits for its leader.
func TestHeldSlotIsNotDropped(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	leader := f.session(f.reader())
	f.exec("INSERT INTO outbox VALUES (2)") // not acked
	leader.take(1)
	f.wal(2)
	f.cfg.MaxRetainedWAL, f.cfg.DropSlot = 1<<20, true
	f.refuses(cdc.CodeSlotActive)
	leader.close()
	f.refuses(cdc.CodeSlotDropped)
}

// Nothing is dropped that cannot be recorded.
func TestSlotIsNotDroppedWithoutAudit(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.wal(2)
	login("REPLICATION", "right", "GRANT USAGE ON SCHEMA outboxd TO {}", "GRANT SELECT, INSERT, UPDATE ON outboxd.witness TO {}")(f)
	f.cfg.MaxRetainedWAL, f.cfg.DropSlot = 1<<20, true
	f.refuses(cdc.CodePrivilege)
	if !f.hasSlot() {
		t.Error("the slot is gone")
	}
}

// The figures are those that the server has.
func TestSlotFigures(t *testing.T) {
	_, f := ownServer(t, map[string]string{"logical_decoding_work_mem": "64kB", "max_slot_wal_keep_size": "1GB"})
	f.led(1)
	r := f.reader()
	s := f.session(r)
	// Nothing of this is acked, so the slot stays in front of the first. Without
	// that one a keepalive could take it into the middle of the large one.
	f.exec("INSERT INTO outbox VALUES (2)")
	s.take(1)
	f.exec("INSERT INTO outbox SELECT n, repeat('x', 1000) FROM generate_series(3, 1002) n")
	s.take(1000)
	for range 50 {
		f.exec("SELECT pg_current_xact_id()")
	}
	eventually(t, 20*time.Second, "the server counts the spill", func() bool {
		return f.value("SELECT coalesce(max(spill_txns), 0)::text FROM pg_stat_replication_slots") != "0"
	})
	s.close()

	opened := time.Now()
	again := f.session(r)
	eventually(t, 10*time.Second, "the slot is measured", func() bool { return r.Stats().Slot.At.After(opened) })
	again.close()
	got := r.Stats().Slot
	if got.CatalogXminAge < 50 || got.SpillTxns < 1 || got.SpillBytes < 100_000 || got.RetainedBytes < 1_000_000 ||
		got.UnconfirmedBytes < 1_000_000 || got.UnconfirmedBytes > got.RetainedBytes || got.SafeBytes < 1<<29 || got.SafeBytes > 1<<30+1<<24 {
		t.Errorf("figures %+v", got)
	}
	for _, figure := range []struct {
		name, sql string
		got       int64
	}{
		{"catalog xmin age", "SELECT age(catalog_xmin) FROM pg_replication_slots", got.CatalogXminAge},
		{"retained WAL", "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots", got.RetainedBytes},
		{"spilled bytes", "SELECT spill_bytes FROM pg_stat_replication_slots", got.SpillBytes},
	} {
		if f.value("SELECT (("+figure.sql+") >= $1::text::numeric)::text", strconv.FormatInt(figure.got, 10)) != "true" {
			t.Errorf("%s: %d, and the server says less later", figure.name, figure.got)
		}
	}
}
