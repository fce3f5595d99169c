package outbox_test

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/outbox"
)

func TestNewIDIsUUIDv7OfNow(t *testing.T) {
	before := time.Now().Truncate(time.Millisecond)
	id := outbox.NewID()
	after := time.Now()
	s := id.String()
	if len(s) != 36 || s[14] != '7' || !strings.ContainsRune("89ab", rune(s[19])) || s != strings.ToLower(s) {
		t.Errorf("%s is not a UUID of version 7 and variant 10", s)
	}
	// Other tests of this process may have made ids run ahead of the clock,
	// one tick of 244 ns each: 10 ms are 40,000 ids.
	if at := id.Time(); at.Before(before) || at.After(after.Add(10*time.Millisecond)) {
		t.Errorf("Time() = %v, want between %v and %v", at, before, after)
	}
}

func TestNewIDIncreasesWithinTheProcess(t *testing.T) {
	const goroutines, each = 8, 5_000
	all := make([][]outbox.ID, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for range each {
				all[g] = append(all[g], outbox.NewID())
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, ids := range all {
		for i, id := range ids {
			if i > 0 && ids[i-1].String() >= id.String() {
				t.Fatalf("%v follows %v", id, ids[i-1])
			}
			if prefix := id.String()[:18]; seen[prefix] {
				t.Fatalf("two ids have the time %s", prefix)
			} else {
				seen[prefix] = true
			}
		}
	}
}

func TestNewIDIsRandomBehindTheTime(t *testing.T) {
	const n = 2_000
	tails := make([]string, n)
	for i := range tails {
		tails[i] = outbox.NewID().String()[19:]
	}
	slices.Sort(tails)
	if got := len(slices.Compact(tails)); got != n {
		t.Errorf("%d ids have %d different tails", n, got)
	}
}

func TestParseID(t *testing.T) {
	const canonical = "0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44"
	for _, s := range []string{canonical, strings.ToUpper(canonical)} {
		id, err := outbox.ParseID(s)
		if err != nil || id.String() != canonical {
			t.Errorf("ParseID(%q) = %v, %v", s, id, err)
		}
	}
	for _, s := range []string{
		"", "0190b6f24d3a7c518e075a1f0c2b9d44", "{" + canonical + "}", canonical + "0", canonical[:35],
		"0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d4g", "0190b6f2-4d3a-7c518-e07-5a1f0c2b9d44",
		"0190b6f204d3a-7c51-8e07-5a1f0c2b9d44", "0190b6f2-4d3a07c51-8e07-5a1f0c2b9d44", "0190b6f2-4d3a-7c5108e07-5a1f0c2b9d44",
		"0190b6f2-4d3a-7c51-8e0705a1f0c2b9d44",
	} {
		if id, err := outbox.ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", s, id)
		} else if !id.IsZero() {
			t.Errorf("ParseID(%q) returns %v beside its error", s, id)
		}
	}
}

func TestIDOfAnotherVersionHasNoTime(t *testing.T) {
	id, err := outbox.ParseID("c1b9e6a4-52f1-4b6e-9b57-0d1f6f1a2b3c")
	if err != nil || !id.Time().IsZero() {
		t.Errorf("Time() of %v = %v (%v), want zero", id, id.Time(), err)
	}
}

func TestIDAsJSON(t *testing.T) {
	want := map[string]outbox.ID{"id": outbox.NewID()}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != `{"id":"`+want["id"].String()+`"}` {
		t.Errorf("marshalled as %s", b)
	}
	var got map[string]outbox.ID
	if err := json.Unmarshal(b, &got); err != nil || got["id"] != want["id"] {
		t.Errorf("unmarshalled as %v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`{"id":"42"}`), &got); err == nil {
		t.Error("42 was taken as an id")
	}
}

func TestIDInTheDatabase(t *testing.T) {
	conn := connect(t)
	want := outbox.NewID()
	var got outbox.ID
	var null *outbox.ID
	var sent string
	err := conn.QueryRow(t.Context(), "SELECT $1::uuid, $1::uuid::text, NULL::uuid", want).Scan(&got, &sent, &null)
	if err != nil || got != want || sent != want.String() || null != nil {
		t.Errorf("pgx: sent %v, server saw %v, got %v and %v (%v)", want, sent, got, null, err)
	}
	for _, driver := range []string{"pgx", "postgres"} {
		db := openSQL(t, conn, driver)
		got = outbox.ID{}
		if err := db.QueryRow("SELECT $1::uuid", want).Scan(&got); err != nil || got != want {
			t.Errorf("%s: got %v, want %v (%v)", driver, got, want, err)
		}
		if err := db.QueryRow("SELECT 42").Scan(&got); err == nil {
			t.Errorf("%s: 42 was scanned as %v", driver, got)
		}
	}
}
