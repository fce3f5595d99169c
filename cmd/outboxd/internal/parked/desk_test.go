package parked_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
)

// filled is a yard with events of three keys:
//
//	a: 10 too_large, 20 behind, 40 behind
//	b: 30 bad_topic
//	-: 50 not decoded
func filled(t *testing.T) (*yard, *parked.Lot, *parked.Desk) {
	y := newYard(t)
	lot, _ := y.open()
	raw := parked.Event{Raw: true, Reason: "bad_record"}
	raw.Position, raw.Payload, raw.CommitTime = at(0x50, 0), []byte("raw"), time.Now()
	park(t, lot, event(at(0x10, 0), "a", "too_large"), event(at(0x20, 0), "a", parked.Behind), event(at(0x30, 0), "b", "bad_topic"),
		event(at(0x40, 0), "a", parked.Behind), raw)
	return y, lot, y.desk()
}

func TestListAndGroups(t *testing.T) {
	_, _, desk := filled(t)
	groups, err := desk.Groups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range groups {
		got = append(got, fmt.Sprint(g.Reason, " ", g.State, " ", g.Events, " ", g.Keys))
	}
	expect(t, "groups", got, []string{"behind parked 2 1", "bad_record parked 1 1", "bad_topic parked 1 1", "too_large parked 1 1"})
	key := "a"
	list, err := desk.List(t.Context(), parked.Selection{Key: &key}, 2)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "list", len(list), 2)
	expect(t, "first", [3]any{list[0].Position, list[0].Reason, string(list[0].AggregateID)}, [3]any{at(0x10, 0), "too_large", "a"})
	row, err := desk.Show(t.Context(), at(0x50, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "raw", [2]any{row.Raw, string(row.Payload)}, [2]any{true, "raw"})
}

func TestMark(t *testing.T) {
	key, none := "a", "z"
	tests := []struct {
		name   string
		sel    parked.Selection
		as     parked.State
		states string
		behind int
		code   cdc.Code
		words  []string
	}{
		{"head", parked.Selection{IDs: []string{at(0x10, 0).String()}}, parked.Retry, "retry parked parked parked parked", 2, "", nil},
		{"not the head", parked.Selection{IDs: []string{at(0x20, 0).String()}}, parked.Retry, "", 0, parked.CodeNotHead, []string{at(0x10, 0).String(), "--key"}},
		{"with its head", parked.Selection{IDs: []string{at(0x20, 0).String(), at(0x10, 0).String()}}, parked.Retry, "retry retry parked parked parked", 1, "", nil},
		{"key", parked.Selection{Key: &key}, parked.Retry, "retry retry parked retry parked", 0, "", nil},
		{"key elsewhere", parked.Selection{Key: &key, Destination: "x"}, parked.Retry, "", 0, parked.CodeNoMatch, []string{`"a" for "x"`}},
		{"reason to retry", parked.Selection{Reason: "too_large"}, parked.Retry, "retry parked parked parked parked", 2, "", nil},
		{"reason", parked.Selection{Reason: "too_large"}, parked.Discard, "discard parked parked parked parked", 2, "", nil},
		{"all but raw", parked.Selection{All: true}, parked.Retry, "retry retry retry retry parked", 0, "", nil},
		{"all", parked.Selection{All: true}, parked.Discard, "discard discard discard discard discard", 0, "", nil},
		{"raw", parked.Selection{IDs: []string{at(0x50, 0).String()}}, parked.Retry, "", 0, parked.CodeNoMatch, []string{"could not be decoded", "outboxd parked discard --pipeline p --note … " + at(0x50, 0).String()}},
		{"discard in the middle", parked.Selection{IDs: []string{at(0x20, 0).String()}}, parked.Discard, "parked discard parked parked parked", 2, "", nil},
		{"unknown id", parked.Selection{IDs: []string{at(0x10, 0).String(), "nobody"}}, parked.Discard, "", 0, parked.CodeNoMatch, []string{"nobody", "parked list"}},
		{"unknown key", parked.Selection{Key: &none}, parked.Discard, "", 0, parked.CodeNoMatch, []string{`"z"`}},
		{"unknown reason", parked.Selection{Reason: "mood"}, parked.Discard, "", 0, parked.CodeNoMatch, []string{`"mood"`}},
	}
	y, _, desk := filled(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			y.exec("UPDATE outboxd.parked SET state = 'parked'")
			m, err := desk.Mark(t.Context(), tt.sel, tt.as, "")
			if tt.code != "" {
				expectCode(t, err, tt.code, tt.words...)
				expect(t, "rows", y.states(), "parked parked parked parked parked")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "rows", y.states(), tt.states)
			expect(t, "behind", m.Behind, tt.behind)
		})
	}
	t.Run("again", func(t *testing.T) {
		y.exec("UPDATE outboxd.parked SET state = 'retry'")
		_, err := desk.Mark(t.Context(), parked.Selection{Key: &key}, parked.Retry, "")
		expectCode(t, err, parked.CodeNoMatch, "3 events are marked retry already")
	})
	t.Run("another mind", func(t *testing.T) {
		y.exec("UPDATE outboxd.parked SET state = 'discard'")
		if _, err := desk.Mark(t.Context(), parked.Selection{IDs: []string{at(0x20, 0).String()}}, parked.Retry, ""); err != nil {
			t.Fatal(err)
		}
		expect(t, "rows", y.states(), "discard retry discard discard discard")
	})
	t.Run("key of a discard", func(t *testing.T) {
		y.exec("UPDATE outboxd.parked SET state = CASE WHEN position = $1 THEN 'discard' ELSE 'parked' END", at(0x10, 0).String())
		if _, err := desk.Mark(t.Context(), parked.Selection{Key: &key}, parked.Retry, ""); err != nil {
			t.Fatal(err)
		}
		expect(t, "rows", y.states(), "discard retry parked retry parked")
		y.exec("UPDATE outboxd.parked SET state = 'discard'")
		_, err := desk.Mark(t.Context(), parked.Selection{Key: &key}, parked.Retry, "")
		expectCode(t, err, parked.CodeNoMatch, "3 events are marked discard", "by id")
	})
	t.Run("two destinations", func(t *testing.T) {
		y.exec("UPDATE outboxd.parked SET destination = 'second', domain = 'x' WHERE position = $1", at(0x40, 0).String())
		_, err := desk.Mark(t.Context(), parked.Selection{Key: &key}, parked.Discard, "")
		expectCode(t, err, parked.CodeAmbiguous, `["second" "topic"]`, "--destination", "by id")
		y.exec("UPDATE outboxd.parked SET destination = '' WHERE position = $1", at(0x10, 0).String()) // was not known
		_, err = desk.Mark(t.Context(), parked.Selection{Key: &key}, parked.Discard, "")
		expectCode(t, err, parked.CodeAmbiguous, `["second" "topic"]`)
	})
}

// TestWait ends when the leader is done, and when what is before an event does
// not go.
func TestWait(t *testing.T) {
	_, lot, desk := filled(t)
	key := "a"
	m, err := desk.Mark(t.Context(), parked.Selection{Key: &key}, parked.Retry, "")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan int, 1)
	go func() {
		n, err := desk.Wait(t.Context(), m.Positions)
		if err != nil {
			t.Error(err)
		}
		refused <- n
	}()
	if got := positions(marked(t, lot).Retries); len(got) != 3 {
		t.Fatalf("retries %v", got)
	}
	if _, err := lot.Settle(t.Context(), []cdc.Position{at(0x10, 0)}, []parked.Refusal{{Position: at(0x20, 0), Reason: "too_large"}}); err != nil {
		t.Fatal(err)
	}
	expect(t, "refused", <-refused, 2)
}

func TestNoPipeline(t *testing.T) {
	y := newYard(t)
	_, err := parked.OpenDesk(t.Context(), y.url, "q")
	expectCode(t, err, parked.CodeNoPipeline, "no pipeline q", "--pipeline that is meant: p")
}

// TestDeskNotSetUp says which command sets up.
func TestDeskNotSetUp(t *testing.T) {
	y := newYard(t)
	y.exec("DROP SCHEMA outboxd CASCADE")
	_, err := parked.OpenDesk(t.Context(), y.url, "p")
	expectCode(t, err, cdc.CodeNotSetUp, "missing", "outboxd setup --pipeline p")
}
