package cdc

import (
	"context"
	"strings"
	"sync/atomic"
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

// What has its place among the standbys of a server, for which commits wait.
func TestNamesStandby(t *testing.T) {
	for names, want := range map[string]bool{
		"": false, "standby": false, "FIRST 1 (a, b)": false, `"a*b"`: false, `"outboxd other"`: false,
		"*": true, "ANY 1 (*)": true, `2 (a,"*")`: true, `a, "Outboxd P"`: true,
	} {
		if got := namesStandby(names, "outboxd p"); got != want {
			t.Errorf("synchronous_standby_names = '%s': %v, want %v", names, got, want)
		}
	}
}

// A server that begins to take the relay for a standby is let go of.
func TestSessionEndsBeforeCommitsWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writable string
		p := leading(t, pid, &writable)
		answer := p.answer
		var names atomic.Value
		names.Store("standby")
		p.answer = func(sql string) ([]any, string) {
			if strings.Contains(sql, "synchronous_standby_names") {
				return []any{names.Load()}, ""
			}
			return answer(sql)
		}
		s, err := p.take(newScripted(t, nil).r)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		s.handling.Store(true) // nothing runs it that could miss what the server says
		time.Sleep(inspectInterval)
		if s.ctx.Err() != nil {
			t.Fatalf("the session has ended: %v", context.Cause(s.ctx))
		}
		names.Store("*")
		time.Sleep(2 * inspectInterval)
		if got := code(context.Cause(s.ctx)); got != CodeSyncStandby {
			t.Errorf("the session has ended with %v, want %s", context.Cause(s.ctx), CodeSyncStandby)
		}
	})
}
