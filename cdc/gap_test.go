package cdc_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
)

// adopt accepts the gap as outboxd adopt does.
func (f *fixture) adopt() cdc.Gap {
	f.t.Helper()
	gap, err := cdc.FindGap(f.t.Context(), f.cfg, cdc.Position{})
	if err != nil {
		f.t.Fatal(err)
	}
	if gap.NewSlot {
		f.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", f.cfg.Slot)
		f.createSlot()
	}
	if _, err := gap.Accept(f.t.Context(), f.cfg); err != nil {
		f.t.Fatal(err)
	}
	return gap
}

// audited returns the last deed as "action from to: reason".
func (f *fixture) audited() string {
	f.t.Helper()
	return f.value("SELECT concat_ws(' ', action, from_position, to_position || ':', reason) FROM outboxd.audit WHERE pipeline = 'p' AND who <> '' ORDER BY at DESC LIMIT 1")
}

// A slot that is gone is replaced when somebody says so; the new one's position
// becomes the pipeline's, and the floor of the old stays as that of the gap.
func TestAdoptNotesGapOfNewSlot(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("UPDATE outboxd.witness SET replay_floor = '740'")
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	f.refuses(cdc.CodeSlotMissing)
	gap, err := cdc.FindGap(t.Context(), f.cfg, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if len(gap.Findings) != 1 || !gap.NewSlot || gap.Slot != 0 || gap.Floor != "740" || gap.Rows != -1 || gap.Epoch != 2 {
		t.Fatalf("gap %+v", gap)
	}
	_, err = gap.Accept(t.Context(), f.cfg) // nobody has made the slot
	wantCode(t, err, cdc.CodeSlotMissing)
	if got := f.value("SELECT (SELECT gap_floor FROM outboxd.witness) || (SELECT count(*) FROM outboxd.audit)"); got != "0" {
		t.Errorf("something was noted all the same: %s", got)
	}
	f.createSlot()
	at, err := gap.Accept(t.Context(), f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if at != f.confirmed() {
		t.Errorf("goes on from %s, and the slot stands at %s", at, f.confirmed())
	}
	if got, want := f.audited(), "adopt "+gap.Acked.String()+" "+at.String()+": "+gap.Findings[0]; got != want {
		t.Errorf("audited: %s\nwant %s", got, want)
	}
	s := f.session(f.reader())
	f.exec("INSERT INTO outbox VALUES (2)")
	if e := s.take(1)[0]; e.id != "2" || e.Position.Epoch != 2 {
		t.Errorf("event %s at %s, want 2 in epoch 2", e.id, e.Position)
	}
	if s.stream.Gap() != "740" {
		t.Errorf("the session has the gap %q, want 740", s.stream.Gap())
	}
	s.close()
}

// A second gap does not make the first one shorter, and a gap without any
// position moved has the floor too.
func TestAdoptKeepsPendingGap(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("UPDATE outboxd.witness SET replay_floor = '740'")
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " DROP TABLE outbox")
	f.exec("ALTER PUBLICATION " + f.cfg.Publication + " ADD TABLE outbox")
	if gap := f.adopt(); gap.Floor != "740" || gap.NewSlot || gap.Epoch != 1 {
		t.Errorf("gap %+v", gap)
	}
	f.exec("UPDATE outboxd.witness SET replay_floor = '800'")
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	if gap := f.adopt(); gap.Floor != "740" || gap.Epoch != 2 {
		t.Errorf("gap %+v", gap)
	}
	if gap, err := cdc.FindGap(t.Context(), f.cfg, cdc.Position{}); err != nil || len(gap.Findings) != 0 || gap.Floor != "740" {
		t.Errorf("afterwards: %+v, %v", gap, err)
	}
	f.exec("UPDATE outboxd.witness SET system_id = '42'")
	if gap := f.adopt(); gap.Floor != "0" {
		t.Errorf("gap %+v", gap)
	}
}

// A slot that is older than its publication cannot be read.
func TestAdoptReplacesSlotOfAnotherPublication(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("DROP PUBLICATION " + f.cfg.Publication)
	f.exec("INSERT INTO outbox VALUES (2)")
	f.exec("CREATE PUBLICATION " + f.cfg.Publication + " FOR TABLE outbox WITH (publish = 'insert')")
	if gap := f.adopt(); !gap.NewSlot || gap.Epoch != 2 {
		t.Fatalf("gap %+v", gap)
	}
	s := f.session(f.reader())
	f.exec("INSERT INTO outbox VALUES (3)")
	if e := s.take(1)[0]; e.id != "3" {
		t.Errorf("event %s, want 3", e.id)
	}
	s.close()
}

// A restored database does not know that it was restored. The process that knows
// notes it, so that one without its memory does not go on either, until somebody
// accepts it: then no epoch that was published before is used again.
func TestRestoreIsNoted(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("CREATE TABLE backup AS SELECT * FROM outboxd.witness")
	f.exec("UPDATE outboxd.witness SET epoch = 7")
	f.exec("INSERT INTO outbox VALUES (1)")
	ackAll(r, s.take(1))
	s.close()
	r = f.reader()
	f.exec("UPDATE outboxd.witness SET epoch = 7")
	f.session(r).close()
	f.exec("DELETE FROM outboxd.witness")
	f.exec("INSERT INTO outboxd.witness SELECT * FROM backup")
	_, err := r.Open(t.Context())
	wantCode(t, err, cdc.CodeRestored)
	if e := f.refuses(cdc.CodeRestored); !strings.Contains(e.Fix, "outboxd adopt") || !strings.Contains(e.Detail, "up to 0007.") {
		t.Errorf("%v; fix: %s", e, e.Fix)
	}
	// Only the row was restored here: the slot is beyond it.
	if gap := f.adopt(); len(gap.Findings) != 2 || gap.Epoch != 8 || gap.NewSlot || gap.Complete || gap.Floor == "" {
		t.Errorf("gap %+v", gap)
	}
	f.session(f.reader()).close()
}

// Most backups have no slots. What the process knows of later epochs is noted all
// the same, or the one that adopt begins would have been published before.
func TestRestoreWithoutSlotIsNoted(t *testing.T) {
	f := newFixture(t)
	f.session(f.reader()).close()
	f.exec("CREATE TABLE backup AS SELECT * FROM outboxd.witness")
	f.exec("UPDATE outboxd.witness SET epoch = 7")
	r := f.reader()
	f.session(r).close()
	f.exec("DELETE FROM outboxd.witness")
	f.exec("INSERT INTO outboxd.witness SELECT * FROM backup")
	f.free()
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	_, err := r.Open(t.Context())
	wantCode(t, err, cdc.CodeSlotMissing)
	if gap := f.adopt(); gap.Epoch != 8 || !gap.NewSlot {
		t.Errorf("gap %+v, want epoch 8", gap)
	}
}

// What a broker has and the witness does not know shows a restore that no relay
// lived through; what it does know shows nothing.
func TestPublishedPositionShowsRestore(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	acked := f.value("SELECT acked_lsn::text FROM outboxd.witness")
	lsn, err := cdc.ParseLSN(acked)
	if err != nil {
		t.Fatal(err)
	}
	_, err = cdc.FindGap(t.Context(), f.cfg, cdc.Position{Epoch: 1, Commit: lsn - 1})
	wantCode(t, err, cdc.CodeConfig)
	for p, epoch := range map[cdc.Position]uint16{{Epoch: 1, Commit: lsn + 1}: 2, {Epoch: 5, Commit: 1}: 6} {
		gap, err := cdc.FindGap(t.Context(), f.cfg, p)
		if err != nil || len(gap.Findings) != 1 || gap.Epoch != epoch || !gap.Complete || gap.Floor != "" || !strings.Contains(gap.Findings[0], p.String()) {
			t.Errorf("%s: gap %+v, %v; want epoch %d", p, gap, err, epoch)
		}
	}
	f.exec("UPDATE outboxd.witness SET acked_lsn = acked_lsn + 8") // the slot was saved before
	gap, err := cdc.FindGap(t.Context(), f.cfg, cdc.Position{Epoch: 2, Commit: lsn})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gap.Accept(t.Context(), f.cfg); err != nil {
		t.Fatal(err)
	}
	if got, want := f.value("SELECT epoch || ' ' || acked_lsn FROM outboxd.witness"), "3 "+(lsn+8).String(); got != want {
		t.Errorf("the witness says %s, want %s: it filters what the slot sends again", got, want)
	}
}

// pg_upgrade makes another cluster, with the slot and another publication of the
// same name. What the slot has kept since then is not given up, unless it cannot
// be read with that publication.
func TestAdoptKeepsSlotOfUpgradedCluster(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("DROP PUBLICATION " + f.cfg.Publication)
	f.exec("CREATE PUBLICATION " + f.cfg.Publication + " FOR TABLE outbox WITH (publish = 'insert')")
	f.exec("UPDATE outboxd.witness SET system_id = '42'")
	f.refuses(cdc.CodeSystemChanged)
	gap, err := cdc.FindGap(t.Context(), f.cfg, cdc.Position{})
	if err != nil || !gap.NewSlot {
		t.Errorf("the slot is older than its publication: gap %+v, %v", gap, err)
	}
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	f.createSlot()
	f.exec("INSERT INTO outbox VALUES (2)")
	if gap := f.adopt(); len(gap.Findings) != 1 || gap.NewSlot || gap.Slot == 0 || gap.Complete || gap.Floor != "0" {
		t.Errorf("gap %+v", gap)
	}
	s := f.session(f.reader())
	if e := s.take(1)[0]; e.id != "2" || e.Position.Epoch != 2 {
		t.Errorf("event %s at %s, want 2 in epoch 2", e.id, e.Position)
	}
	s.close()
}

// The rows of a gap are counted where the table can tell.
func TestGapCountsRows(t *testing.T) {
	f := newFixture(t)
	f.exec("ALTER TABLE outbox ADD COLUMN xid xid8 DEFAULT pg_current_xact_id()")
	f.led(3)
	f.exec("UPDATE outboxd.witness SET replay_floor = (SELECT pg_current_xact_id()::text)")
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	f.exec("INSERT INTO outbox SELECT generate_series(4, 5)")
	if gap := f.adopt(); gap.Rows != 2 {
		t.Errorf("%d rows may be missing, want 2", gap.Rows)
	}
	if floor, rows, err := cdc.PendingGap(t.Context(), f.cfg); floor == "" || rows != 2 || err != nil {
		t.Errorf("pending: from %q %d rows, %v", floor, rows, err)
	}
}

// A relay that starts says that a gap is pending; one that replays it holds the
// slot, publishes nothing and lives as long as it takes.
func TestHoldKeepsSlot(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	gap := f.adopt()
	f.shortTimeout()
	var log bytes.Buffer
	f.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	holder := f.reader()
	stream, err := holder.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	held := make(chan error, 1)
	go func() { held <- stream.Hold(ctx) }()
	f.exec("INSERT INTO outbox VALUES (2)")
	var written cdc.LSN
	if err := written.Scan(f.value("SELECT pg_current_wal_insert_lsn()::text")); err != nil {
		t.Fatal(err)
	}
	f.exec("SELECT pg_switch_wal()")
	f.refuses(cdc.CodeSlotActive)
	limit := holder.Stats().SilenceLimit
	for began := time.Now(); time.Since(began) < 2*limit; <-time.After(limit / 10) {
		if err := stream.Guard(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-stream.Lost():
			t.Fatalf("the session ended: %v", <-held)
		default:
		}
	}
	stop(errStopped)
	if err := <-held; err != errStopped {
		t.Errorf("held until %v", err)
	}
	if err := stream.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if stream.Gap() != gap.Floor || strings.Contains(log.String(), "replay") {
		t.Errorf("the gap is from %q, want %q; log: %s", stream.Gap(), gap.Floor, log.String())
	}
	if now := f.confirmed(); now > written {
		t.Errorf("confirmed went to %s, past the event before %s", now, written)
	}
	log.Reset()
	s := f.session(f.reader())
	if e := s.take(1)[0]; e.id != "2" {
		t.Errorf("event %s, want 2", e.id)
	}
	s.close()
	if !strings.Contains(log.String(), "outboxd replay --pipeline p --gap") {
		t.Errorf("the gap is not told of: %s", log.String())
	}
}

// Who loses the slot while it replays comes back to it, also while the server
// has not noticed that the session is over; not when a relay has taken it.
func TestHoldComesBackUnlessOvertaken(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	holder := f.reader()
	hold := func() (*cdc.Stream, error) { return holder.Hold(t.Context()) }
	stream, err := hold()
	if err != nil {
		t.Fatal(err)
	}
	_, err = hold() // the first is not over
	wantCode(t, err, cdc.CodeUnreachable)
	if err := stream.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.free()
	s := f.session(f.reader())
	_, err = hold()
	wantCode(t, err, cdc.CodeSlotActive)
	s.close()
	f.free()
	if stream, err = hold(); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Who closes a gap says which one and why.
func TestCloseGap(t *testing.T) {
	f := newFixture(t)
	f.led(1)
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	gap := f.adopt()
	wantCode(t, cdc.CloseGap(t.Context(), f.cfg, "1", "skip", "", "wrong"), cdc.CodeNoGap)
	if floor, _, err := cdc.PendingGap(t.Context(), f.cfg); floor != gap.Floor || err != nil {
		t.Errorf("the gap is from %q, %v", floor, err)
	}
	if err := cdc.CloseGap(t.Context(), f.cfg, gap.Floor, "replay", "seq 7", "12 rows"); err != nil {
		t.Fatal(err)
	}
	if got, want := f.audited(), "replay xid "+gap.Floor+" seq 7: 12 rows"; got != want {
		t.Errorf("audited: %s, want %s", got, want)
	}
	if floor, _, err := cdc.PendingGap(t.Context(), f.cfg); floor != "" || err != nil {
		t.Errorf("the gap is from %q, %v", floor, err)
	}
	wantCode(t, cdc.CloseGap(t.Context(), f.cfg, gap.Floor, "skip", "", "again"), cdc.CodeNoGap)
}
