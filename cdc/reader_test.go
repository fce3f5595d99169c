package cdc

import (
	"cmp"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// leading returns a puppet that lets a session begin for whose slot holder is
// the answer. Updates of the witness fail with *sqlstate.
func leading(t *testing.T, holder int, sqlstate *string) *puppet {
	return &puppet{t: t, answer: func(sql string) ([]any, string) {
		switch {
		case strings.HasPrefix(sql, "IDENTIFY_SYSTEM"):
			return []any{"42", "1", "0/100", "puppet"}, ""
		case strings.Contains(sql, "FROM outboxd.witness"):
			return []any{"42", 1, 1, "s", "", "", "0", "0/100", "0/0", 0, "0/100", 5, "another run", "", "", ""}, ""
		case strings.HasPrefix(sql, "UPDATE"):
			return nil, *sqlstate
		case strings.HasPrefix(sql, "SELECT coalesce(active_pid"):
			return []any{holder}, ""
		case strings.Contains(sql, "s.active_pid"):
			return []any{"pgoutput", "puppet", true, holder, "0/100", "reserved", "", "", false, 0}, ""
		}
		return nil, "42601" // figures and publication, which keep no session from going on
	}}
}

func (p *puppet) take(r *Reader) (*Stream, error) {
	p.t.Helper()
	return r.take(p.t.Context(), p.connect(), p.connect().PgConn(), server{version: 16_00_00}, nil, publication{}, cmp.Or(p.timeout, 10*time.Second))
}

// Between START_REPLICATION and the look at the witness the slot may go to
// another relay, who then writes the witness lawfully.
func TestSlotMustBeOursWhenWitnessIsRead(t *testing.T) {
	for holder, want := range map[int]Code{pid: "", pid + 1: CodeLostLead, 0: CodeLostLead} {
		synctest.Test(t, func(t *testing.T) {
			r := newScripted(t, nil).r
			var writable string
			s, err := leading(t, holder, &writable).take(r)
			if code(err) != want {
				t.Errorf("slot held by process %d: %v, want %q", holder, err, want)
			}
			if s != nil {
				_ = s.Close(context.Background())
			}
		})
	}
}

// A session whose last witness could not be written says so, and takes no leave
// that would confirm anything.
func TestCloseWithoutWitnessConfirmsNothing(t *testing.T) {
	for _, sqlstate := range []string{"", "55P03"} {
		synctest.Test(t, func(t *testing.T) {
			var writable string
			p := leading(t, pid, &writable)
			s, err := p.take(newScripted(t, nil).r)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the keeper has looked once
			token, _ := s.r.queue.event(place{0x200, 0}, time.Time{})
			s.r.queue.mark(0x220)
			s.r.Ack(token)
			writable = sqlstate
			err = s.Close(context.Background())
			if failed := err != nil; failed != (sqlstate != "") {
				t.Errorf("updates end with %q, and close with %v", sqlstate, err)
			}
			if got := s.r.Stats().Confirmed; sqlstate != "" && got != 0x100 {
				t.Errorf("confirmed %s, want 0/100", got)
			}
			if p.left.Load() != (sqlstate == "") {
				t.Errorf("updates end with %q; leave was taken: %v", sqlstate, p.left.Load())
			}
		})
	}
}

// Half of the server's timeout without a proof, and no more, ends the right to
// publish; so does knowing better, at once.
func TestGuardGoesByHalfOfTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted(t, nil)
		wants := func(want Code) {
			t.Helper()
			if err := s.Guard(); code(err) != want {
				t.Errorf("%s after the start: %v, want %q", time.Since(s.started), err, want)
			}
		}
		time.Sleep(time.Second)
		s.leasedAt.Store(int64(time.Second))
		time.Sleep(s.timeout / 2)
		wants("")
		time.Sleep(time.Nanosecond)
		wants(CodeLostLead)

		s.leasedAt.Store(int64(time.Since(s.started)))
		wants("")
		s.fail(&Error{Code: CodeUnreachable})
		wants("") // the server may still hold the slot for us
		s = newScripted(t, nil)
		s.fail(&Error{Code: CodeLostLead})
		wants(CodeLostLead)
	})
}

// A server that gives up its clients soon, and answers each question after a
// moment, leaves the right to publish where it is.
func TestGuardLivesWithShortTimeout(t *testing.T) {
	for _, server := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var writable string
			p := leading(t, pid, &writable)
			answer := p.answer
			p.answer = func(sql string) ([]any, string) {
				time.Sleep(100 * time.Millisecond)
				return answer(sql)
			}
			p.timeout = senderTimeout(server)
			s, err := p.take(newScripted(t, nil).r)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(context.Background())
			s.handling.Store(true) // nothing runs it that could miss what the server says
			for range 1000 {
				time.Sleep(10 * time.Millisecond)
				if err := s.Guard(); err != nil {
					t.Fatalf("wal_sender_timeout %s, %s after the start: %v", server, time.Since(s.started), err)
				}
			}
		})
	}
}

// A newer timeline begins an epoch, in which LSNs and transaction ids beyond the
// switch are used again: floors that lie there mean nothing any more.
func TestNewTimelineBeginsEpoch(t *testing.T) {
	const history = "1\t0/200\tno recovery target specified\n"
	tests := []struct {
		name      string
		acked     progress
		confirmed LSN // by the slot
		synced    bool
		want      progress
		floor     string
		code      Code
	}{
		{"published below the switch", progress{confirm: 0x180, commit: 0x190, events: 2}, 0x180, false, progress{confirm: 0x180, commit: 0x190, events: 2}, "740", ""},
		{"published beyond it", progress{confirm: 0x300, commit: 0x290, events: 2}, 0x180, true, progress{confirm: 0x200}, "0", ""},
		{"the slot knows more than the row", progress{confirm: 0x100}, 0x180, true, progress{confirm: 0x180}, "740", ""},
		{"a slot that is no copy is beyond the row", progress{confirm: 0x100}, 0x180, false, progress{}, "", CodeSlotForeign},
		{"the slot is beyond the switch", progress{confirm: 0x100}, 0x201, true, progress{}, "", CodeSlotForeign},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newScripted(t, nil).r
			w := &witness{timeline: 1, epoch: 4, floor: "740", gap: "700", acked: tt.acked}
			err := r.follow(w, &slotState{confirmed: tt.confirmed, synced: tt.synced}, 2, history)
			if code(err) != tt.code {
				t.Fatalf("error %v, want %q", err, tt.code)
			}
			if err != nil {
				return
			}
			if w.timeline != 2 || w.epoch != 5 || w.floor != tt.floor || w.acked != tt.want {
				t.Errorf("timeline %d, epoch %d, floor %s, acked %+v; want 2, 5, %s, %+v", w.timeline, w.epoch, w.floor, w.acked, tt.floor, tt.want)
			}
			if gap := map[string]string{"740": "700", "0": "0"}[tt.floor]; w.gap != gap {
				t.Errorf("the gap begins at xid %s, want %s", w.gap, gap)
			}
			if got := r.queue.progress(); got != tt.want {
				t.Errorf("the queue goes on from %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A failover is no reason to go by the ordinals of another configuration, which
// may count other events: what was acked in part is published whole.
func TestOtherConfigurationAfterFailoverPublishesTransactionWhole(t *testing.T) {
	for hash, events := range map[string]uint32{"": 2, "of another configuration": 0} {
		r := newScripted(t, nil).r
		w := &witness{timeline: 1, epoch: 4, configHash: hash, acked: progress{confirm: 0x180, commit: 0x190, events: 2}}
		if err := r.follow(w, &slotState{confirmed: 0x180}, 2, "1\t0/200\tno recovery target specified\n"); err != nil {
			t.Fatal(err)
		}
		if w.acked.confirm != 0x180 || w.acked.events != events || r.queue.progress() != w.acked {
			t.Errorf("configuration %q: goes on from %+v, and the queue from %+v; want 0/180 and %d events of the next transaction", hash, w.acked, r.queue.progress(), events)
		}
	}
}

// A second failover may lose the row that the relay wrote after the first, and
// with it the epoch: what was published in that is not forgotten by who did it.
func TestEpochOfLostFailoverDoesNotComeAgain(t *testing.T) {
	const history = "1\t0/200\tno recovery target specified\n2\t0/300\tno recovery target specified\n"
	r := newScripted(t, nil).r
	r.last = &witness{timeline: 2, epoch: 5, acked: progress{confirm: 0x400}}
	w := &witness{timeline: 1, epoch: 4, acked: progress{confirm: 0x180}}
	if err := r.follow(w, &slotState{confirmed: 0x180}, 3, history); err != nil {
		t.Fatal(err)
	}
	if w.epoch != 6 || w.timeline != 3 {
		t.Errorf("epoch %d of timeline %d; want 6, since this relay has published in epoch 5", w.epoch, w.timeline)
	}
}
