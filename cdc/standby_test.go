package cdc

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A server that waits for a standby is found when nothing has come for a while,
// and is no longer told of when something comes, or when it waits no more.
func TestHangingStandbyIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits, asked := true, 0
		p := &puppet{t: t, answer: func(sql string) ([]any, string) {
			asked++
			if waits && strings.Contains(sql, "WaitForStandbyConfirmation") {
				return []any{"standby_1"}, ""
			}
			return nil, ""
		}}
		k := p.keeper()
		k.s.version = 17_00_00
		look := func(after time.Duration, want bool) {
			t.Helper()
			time.Sleep(after)
			if err := k.watchStandby(t.Context()); err != nil {
				t.Fatal(err)
			}
			st := k.s.r.Stats()
			if got := strings.Contains(st.HeldBack, `"standby_1"`); got != want || got && st.HeldBackAt != time.Now() {
				t.Errorf("%s after the start: held back %q, said at %s", time.Since(k.s.started), st.HeldBack, st.HeldBackAt)
			}
		}
		look(0, false)
		look(standbyPatience-1, false)
		if asked != 0 {
			t.Errorf("asked %d times though there was no reason yet", asked)
		}
		look(1, true)
		look(time.Second, true)
		k.s.see(100)
		look(time.Second, false)
		look(standbyPatience, true)
		waits = false
		look(time.Second, false)
		waits, k.s.version, asked = true, 16_00_00, 0
		if look(time.Minute, false); asked != 0 {
			t.Error("asked a server that does not know the setting")
		}
	})
}
