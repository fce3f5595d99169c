package cdc

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// A floor is worth something as long as the WAL up to the acked position is the
// server's own history, and nothing where transaction ids may mean something
// else.
func TestFloorIsValidOnItsOwnHistory(t *testing.T) {
	const history = "1\t0/200\tno recovery target specified\n2\t0/300\tno recovery target specified\n"
	w := &witness{systemID: "42", timeline: 1, floor: "740", acked: progress{confirm: 0x180}}
	beyond := *w
	beyond.acked.confirm = 0x201
	atSwitch := *w
	atSwitch.acked.confirm = 0x200
	third := *w
	third.timeline = 3
	tests := []struct {
		name     string
		w        *witness
		system   string
		timeline int32
		end      LSN
		want     string
	}{
		{"the same server", w, "42", 1, 0x180, "740"},
		{"another cluster", w, "43", 1, 0x1000, "0"},
		{"restored to an earlier state", w, "42", 1, 0x17f, "0"},
		{"an older timeline", &third, "42", 2, 0x1000, "0"},
		{"a newer timeline, published below the switch", w, "42", 3, 0x1000, "740"},
		{"published up to the switch", &atSwitch, "42", 3, 0x1000, "740"},
		{"published beyond the switch", &beyond, "42", 3, 0x1000, "0"},
		{"a timeline that is not of this history", &third, "42", 4, 0x1000, "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			system := identity{pglogrepl.IdentifySystemResult{SystemID: tt.system, Timeline: tt.timeline, XLogPos: tt.end}, history}
			if got := validFloor(&Config{}, tt.w, system); got != tt.want {
				t.Errorf("floor %s, want %s", got, tt.want)
			}
		})
	}
}

// Of two gaps the older floor counts, unless one of them means every row.
func TestGapsAddUp(t *testing.T) {
	for _, tt := range []struct{ pending, floor, want string }{
		{"", "740", "740"}, {"740", "800", "740"}, {"740", "0", "0"}, {"0", "800", "0"},
	} {
		if got := widened(tt.pending, tt.floor); got != tt.want {
			t.Errorf("a gap from %q and one from %q: from %q, want %q", tt.pending, tt.floor, got, tt.want)
		}
	}
}

// What is to be skipped comes in its order among what was acked ahead, once, and
// survives the sessions until it comes.
func TestQueueSkips(t *testing.T) {
	q := newQueue(progress{confirm: 100})
	event := func(commit LSN, want bool) {
		t.Helper()
		if token, fresh := q.event(place{commit, 0}, time.Time{}); fresh != want {
			t.Errorf("event at %s: fresh %t, want %t", commit, fresh, want)
		} else if commit == 300 && fresh {
			q.ack(token)
		}
	}
	event(200, true)
	event(300, true)
	q.rewind() // 300 is acked ahead of 200
	for _, at := range []LSN{400, 250, 400} {
		q.skip(place{at, 0})
	}
	if want := []place{{250, 0}, {300, 0}, {400, 0}}; !slices.Equal(q.ahead, want) {
		t.Fatalf("ahead are %v, want %v", q.ahead, want)
	}
	event(200, true)
	event(250, false)
	q.rewind()
	event(200, true)
	event(250, false)
	event(300, false)
	event(400, false)
	event(500, true)
	if n, _ := q.inFlight(); n != 2 {
		t.Errorf("%d events in flight, want 2: those at 200 and 500", n)
	}
}

// Positions of another epoch, and what was passed, are skipped no more.
func TestSkipIsOfItsEpoch(t *testing.T) {
	p := Position{Epoch: 2, Commit: 0x200, Ordinal: 1}
	for name, tt := range map[string]struct {
		w    witness
		want bool
	}{
		"ahead":                 {witness{epoch: 2, skip: p.String(), acked: progress{confirm: 0x100}}, true},
		"right ahead":           {witness{epoch: 2, skip: p.String(), acked: progress{confirm: 0x100, commit: 0x200, events: 1}}, true},
		"passed":                {witness{epoch: 2, skip: p.String(), acked: progress{confirm: 0x100, commit: 0x200, events: 2}}, false},
		"another epoch":         {witness{epoch: 3, skip: p.String(), acked: progress{confirm: 0x100}}, false},
		"nothing to be skipped": {witness{epoch: 2, acked: progress{confirm: 0x100}}, false},
	} {
		if got := tt.w.toSkip(); (got != nil) != tt.want || got != nil && *got != p {
			t.Errorf("%s: skip %v", name, got)
		}
	}
}
