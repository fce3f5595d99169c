package main

import (
	"strings"
	"testing"
)

// TestGapOfTableWithoutXID: what is said of a gap of an existing table names
// neither transaction ids nor partitions, of which it has none.
func TestGapOfTableWithoutXID(t *testing.T) {
	db := database(t)
	execSQL(t, db, "CREATE TABLE events (id uuid, aggregatetype text, aggregateid text, type text, payload json)")
	command := func(name string, args ...string) result {
		return call(t, nil, append([]string{name, "--database", db, "--pipeline", "p", "--table", "public.events"}, args...)...)
	}
	command("setup").expect(t, 0)
	execSQL(t, db, "SELECT pg_drop_replication_slot('outboxd_p')")
	adopted := command("adopt", "--yes")
	adopted.expect(t, 0)
	if !strings.Contains(adopted.out, "no column xid by which to tell") || !strings.Contains(adopted.out, "--since TIME, with the flags of outboxd run") {
		t.Errorf("adopt:\n%s", adopted.out)
	}
	given := command("skip", "--gap", "--reason", "x", "--yes")
	given.expect(t, 0)
	if want := "gives up   the replay of what may be missing of public.events\nclosed     the gap\n"; given.out != want {
		t.Errorf("skip --gap: %q, want %q", given.out, want)
	}
}
