package setup

import (
	"strings"
	"testing"
)

func TestServerNotes(t *testing.T) {
	for _, c := range []struct {
		version int
		keepMB  int64
		want    []string // in the notes
		not     []string
	}{
		{18_00_05, -1, []string{"warning: max_slot_wal_keep_size is -1 (unlimited)", "slot s keeps all WAL", "SELECT pg_reload_conf()"}, []string{"bugs"}},
		{17_00_08, 1024, []string{"max_slot_wal_keep_size is 1024 MB"}, []string{"warning"}},
		{17_00_05, 1, []string{"PostgreSQL 17.5 has bugs", "upgrade to 17.8 or later", "loses their rows (fixed in 17.6)"}, []string{"17.2", "17.3"}},
		{15_00_04, 1, []string{"middle of a transaction", "(fixed in 15.8)", "(fixed in 15.10)", "(fixed in 15.11)", "(fixed in 15.14)", "upgrade to 15.16"}, nil},
		{18_00_01, 1, []string{"upgrade to 18.2"}, []string{"leaks"}},
		{19_00_00, 1, nil, []string{"warning"}},
	} {
		notes := strings.Join(server{version: c.version, keepMB: c.keepMB}.notes("s"), "\n")
		for _, want := range c.want {
			if !strings.Contains(notes, want) {
				t.Errorf("%d: %q is missing in %q", c.version, want, notes)
			}
		}
		for _, not := range c.not {
			if strings.Contains(notes, not) {
				t.Errorf("%d: %q is in %q", c.version, not, notes)
			}
		}
	}
}

func TestServerTooOld(t *testing.T) {
	problems := server{version: 13_00_20, walLevel: "logical", standby: true, replication: true, mayCreate: true, maxSlots: 1}.check(&state{})
	if len(problems) != 2 || problems[0].Code != "server_version" || problems[1].Code != "not_primary" {
		t.Errorf("got %v, want version and standby", problems)
	}
	if problems := (server{version: 19_00_00, walLevel: "replica", replication: true, mayCreate: true, maxSlots: 1}).check(&state{}); problems != nil {
		t.Errorf("19 raises wal_level itself, got %v", problems)
	}
}
