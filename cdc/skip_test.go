package cdc_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
)

func (f *fixture) skipEvent(p cdc.Position) {
	f.t.Helper()
	skip, err := cdc.FindSkipEvent(f.t.Context(), f.cfg, p)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := skip.Accept(f.t.Context(), f.cfg, "because"); err != nil {
		f.t.Fatal(err)
	}
}

// One event of a transaction is left out, and no other: those around it come
// under their own positions, and everything is confirmed.
func TestSkipEvent(t *testing.T) {
	for name, lives := range map[string]bool{"same process": true, "new process": false} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			r := f.reader()
			s := f.session(r)
			f.exec("INSERT INTO outbox SELECT generate_series(1, 3)")
			events := s.take(3)
			ackAll(r, events[:1])
			s.close()
			f.skipEvent(events[1].Position)
			if got := f.audited(); !strings.HasPrefix(got, "skip ") || !strings.HasSuffix(got, " "+events[1].Position.String()+": because") {
				t.Errorf("audited: %s", got)
			}
			if !lives {
				r = f.reader()
			}
			for range 2 { // it is still left out when the session ends early
				s = f.session(r)
				again := s.take(1)
				if again[0].id != "3" || again[0].Position != events[2].Position {
					t.Errorf("event %s at %s, want 3 at %s", again[0].id, again[0].Position, events[2].Position)
				}
				events = append(events[:2], again[0])
				s.close()
			}
			s = f.session(r)
			ackAll(r, s.take(1))
			eventually(t, 10*time.Second, "the transaction is confirmed", func() bool { return f.confirmed() > events[2].Position.Commit })
			s.close()
		})
	}
}

// What cannot be skipped is named, and nothing is changed.
func TestSkipRefuses(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	f.exec("INSERT INTO outbox SELECT generate_series(1, 3)")
	events := s.take(3)
	ackAll(r, events[:1])
	_, err := cdc.FindSkipEvent(t.Context(), f.cfg, events[1].Position)
	wantCode(t, err, cdc.CodeSlotActive)
	s.close()
	otherEpoch, future := events[1].Position, events[1].Position
	otherEpoch.Epoch++
	future.Commit = 1 << 60
	for p, want := range map[cdc.Position]string{
		events[0].Position: "was published or skipped before",
		otherEpoch:         "positions of epoch 2 are from another history",
		future:             "the server's WAL ends at",
	} {
		_, err := cdc.FindSkipEvent(t.Context(), f.cfg, p)
		if e := wantCode(t, err, cdc.CodeSkipped); !strings.Contains(e.Detail, want) {
			t.Errorf("%s: %s", p, e)
		}
	}
	skip, err := cdc.FindSkipEvent(t.Context(), f.cfg, events[1].Position)
	if err != nil {
		t.Fatal(err)
	}
	f.session(f.reader()).close() // a relay led since
	wantCode(t, skip.Accept(t.Context(), f.cfg, "late"), cdc.CodeLostLead)
	f.skipEvent(events[1].Position)
	f.skipEvent(events[1].Position) // once more is no harm
	_, err = cdc.FindSkipEvent(t.Context(), f.cfg, events[2].Position)
	wantCode(t, err, cdc.CodeSkipped) // the first has not been passed
	// Under another configuration the position may be another event's, in its
	// later sessions too.
	f.cfg.ConfigHash = "another"
	r = f.reader()
	for range 2 {
		s = f.session(r)
		if got := ids(s.take(3)); got != "1 2 3" {
			t.Errorf("events %s, want all", got)
		}
		s.close()
	}
	f.exec("SELECT pg_drop_replication_slot($1)", f.cfg.Slot)
	_, err = cdc.FindSkipEvent(t.Context(), f.cfg, events[1].Position)
	wantCode(t, err, cdc.CodeSlotMissing)
}

// Transactions that commit before the LSN are left out, and only those.
func TestSkipTo(t *testing.T) {
	f := newFixture(t)
	r := f.reader()
	s := f.session(r)
	for i := range 3 {
		f.exec("INSERT INTO outbox VALUES ($1), ($1)", i+1)
	}
	events := s.take(6)
	ackAll(r, events[:2])
	eventually(t, 10*time.Second, "the first is confirmed", func() bool { return f.confirmed() > events[0].Position.Commit })
	s.close()
	for _, to := range []cdc.LSN{0, events[0].Position.Commit, 1 << 60} {
		_, err := cdc.FindSkip(t.Context(), f.cfg, to)
		wantCode(t, err, cdc.CodeSkipped)
	}
	last := events[4].Position.Commit
	skip, err := cdc.FindSkip(t.Context(), f.cfg, last)
	if err != nil {
		t.Fatal(err)
	}
	if err := skip.Accept(t.Context(), f.cfg, "because"); err != nil {
		t.Fatal(err)
	}
	if got, want := f.audited(), "skip "+skip.From+" "+last.String()+": because"; got != want {
		t.Errorf("audited: %s, want %s", got, want)
	}
	s = f.session(r)
	if got := s.take(2); got[0].Position != events[4].Position || got[1].Position != events[5].Position {
		t.Errorf("events at %v, want those of the last transaction", got)
	}
	s.close()
}

func TestParseLSN(t *testing.T) {
	if lsn, err := cdc.ParseLSN(" 16/B374D848 "); err != nil || lsn != 0x16B374D848 {
		t.Errorf("%s, %v", lsn, err)
	}
	for _, text := range []string{"", "16", "0/G", "x/1"} {
		if _, err := cdc.ParseLSN(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
