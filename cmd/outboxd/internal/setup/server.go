package setup

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// minMajor is the oldest server that works.
const minMajor = 14

// server is what matters of the server and of who we are there.
type server struct {
	version     int // server_version_num
	walLevel    string
	standby     bool
	keepMB      int64 // max_slot_wal_keep_size in MB; -1: no limit
	slots       int   // in use
	maxSlots    int
	systemID    string
	user        string
	replication bool // may create slots
	mayCreate   bool // CREATE on the database
}

func (s server) major() int { return s.version / 10000 }

func readServer(ctx context.Context, conn *pgx.Conn) (server, error) {
	var s server
	// Managed services lend the right to replicate by membership in a role of
	// their own.
	err := conn.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery(),
		       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
		       (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int,
		       (SELECT system_identifier::text FROM pg_control_system()),
		       r.rolname, r.rolsuper OR r.rolreplication OR EXISTS (
		           SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'USAGE')),
		       has_database_privilege(current_database(), 'CREATE')
		FROM pg_roles r WHERE r.rolname = current_user`).Scan(
		&s.version, &s.walLevel, &s.standby, &s.keepMB, &s.slots, &s.maxSlots, &s.systemID,
		&s.user, &s.replication, &s.mayCreate)
	if err != nil {
		return s, fmt.Errorf("read the server's settings: %w", err)
	}
	return s, nil
}

// slotLimit says that no slot can be made.
func (s server) slotLimit() *cdc.Error {
	return &cdc.Error{Code: CodeServerLimit, Detail: fmt.Sprintf("all %d replication slots are in use (max_replication_slots)", s.maxSlots),
		Fix: fmt.Sprintf("drop a slot that nobody needs, or ALTER SYSTEM SET max_replication_slots = %d and restart the server", s.maxSlots+4)}
}

func (s server) check(st *state) (p Problems) {
	if s.major() < minMajor {
		p.add(cdc.CodeVersion, "upgrade the server", "the server is PostgreSQL %d; %d is the oldest that works", s.major(), minMajor)
	}
	if s.standby {
		p.add(cdc.CodeNotPrimary, "name the primary in --database, or several hosts with target_session_attrs=read-write",
			"the server is a standby")
	}
	if s.walLevel != "logical" && s.major() < 19 {
		p.add(cdc.CodeWALLevel, "as a superuser: ALTER SYSTEM SET wal_level = 'logical'; then restart the server",
			"wal_level is %q; logical decoding needs \"logical\"", s.walLevel)
	}
	if st.slot == nil {
		if !s.replication {
			p.add(cdc.CodePrivilege, "as a superuser: ALTER ROLE "+quote(s.user)+" REPLICATION",
				"role %q may not create a replication slot", s.user)
		}
		if s.slots >= s.maxSlots {
			p = append(p, s.slotLimit())
		}
	}
	if !s.mayCreate && (st.schemaVersion < 0 || st.publication == nil) {
		p.add(cdc.CodePrivilege, fmt.Sprintf("as the database's owner: GRANT CREATE ON DATABASE %s TO %s", quote(st.database), quote(s.user)),
			"role %q may not create a schema or a publication in database %q", s.user, st.database)
	}
	return p
}

// serverBug is one that a minor release has fixed and that can hurt a pipeline.
type serverBug struct {
	what  string
	fixed map[int]int // major → the minor that fixed it; majors left out are not affected
}

func serverBugs() []serverBug {
	return []serverBug{
		{"a new slot can start in the middle of a transaction that is open while it is made", map[int]int{14: 13, 15: 8, 16: 4}},
		{"WAL that a slot needs can be removed: the slot is lost after a restart", map[int]int{14: 15, 15: 10, 16: 6, 17: 2}},
		{"the walsender leaks memory", map[int]int{14: 16, 15: 11, 16: 7, 17: 3}},
		{"ALTER PUBLICATION beside open writers loses their rows", map[int]int{14: 19, 15: 14, 16: 10, 17: 6}},
		{"a slot may fail to be made: \"oldest safe xid follows snapshot's xmin\"", map[int]int{14: 21, 15: 16, 16: 12, 17: 8, 18: 2}},
	}
}

// notes says what an operator should know of the server.
func (s server) notes(slot string) []string {
	var notes []string
	if s.keepMB < 0 {
		notes = append(notes, fmt.Sprintf("warning: max_slot_wal_keep_size is -1 (unlimited): while no relay runs, slot %s keeps all WAL and can fill the disk. "+
			"Set a limit that the disk can hold, as in ALTER SYSTEM SET max_slot_wal_keep_size = '50GB', then SELECT pg_reload_conf(); a slot that falls further behind is lost", slot))
	} else {
		notes = append(notes, fmt.Sprintf("max_slot_wal_keep_size is %d MB: a slot that falls further behind is lost", s.keepMB))
	}
	var bugs []string
	next := 0
	for _, bug := range serverBugs() {
		if minor, ok := bug.fixed[s.major()]; ok && s.version%10000 < minor {
			bugs = append(bugs, fmt.Sprintf("%s (fixed in %d.%d)", bug.what, s.major(), minor))
			next = max(next, minor)
		}
	}
	if len(bugs) > 0 {
		notes = append(notes, fmt.Sprintf("warning: PostgreSQL %d.%d has bugs that matter here; upgrade to %d.%d or later: %s",
			s.major(), s.version%10000, s.major(), next, strings.Join(bugs, "; ")))
	}
	return notes
}

func quote(identifier string) string { return pgx.Identifier{identifier}.Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
