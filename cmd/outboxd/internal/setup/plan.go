package setup

import (
	"fmt"
	"strings"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
	"github.com/outboxd/outboxd/migrations"
)

// step is one thing that setup sees to. Its SQL is one transaction.
type step struct {
	kind stepKind
	name string
	did  string // what is said when it is done: "created"
	sql  string // empty: already there
}

type stepKind int

const (
	inTransaction stepKind = iota
	migration              // goose runs it, or its script is printed
	makeSlot               // may take long, and must not share a transaction
)

const alreadyThere = "already there"

// plan lists the steps in the only order that cannot lose an event. The package
// comment says why.
func plan(s *settings, st *state) ([]step, error) {
	script, err := migrations.Script(st.schemaVersion)
	if err != nil {
		return nil, err
	}
	steps := []step{{migration, fmt.Sprintf("schema outboxd, version %d", migrations.Latest()), "migrated", script}}
	steps = append(steps, tableStep(s, st), publicationStep(s, st))
	if s.relayRole != "" {
		steps = append(steps, step{inTransaction, fmt.Sprintf("privileges of the relay's role %q", s.relayRole), "granted", relaySQL(s, st)})
	}
	if s.appRole != "" {
		steps = append(steps, step{inTransaction, fmt.Sprintf("privileges of the services' role %q", s.appRole), "granted", appSQL(s, st)})
	}
	return append(steps, slotStep(s, st), witnessStep(s, st)), nil
}

func tableStep(s *settings, st *state) step {
	switch {
	case st.table == nil:
		name := st.publisher(s)
		return step{inTransaction, fmt.Sprintf("table %s: %d partitions of %s, rows kept for %s at least; function outboxd.%s", s.Table(),
			s.ring.Buckets, short(s.ring.Width), short(s.ring.Holds()), name), "created", s.tableSQL(name)}
	case st.ring != nil:
		return step{inTransaction, fmt.Sprintf("table %s: rows kept for %s at least", s.Table(), short(st.ring.Holds())), "", ""}
	}
	name := fmt.Sprintf("table %s: not made here, so its rows stay until you delete them", s.Table())
	if st.table.columns["seq"].typ != "int8" || st.table.columns["xid"].typ != "xid8" {
		name += "; outboxd replay --gap would need its columns seq bigint and xid xid8"
	}
	return step{inTransaction, name, "", ""}
}

func publicationStep(s *settings, st *state) step {
	sql := ""
	if st.publication == nil {
		sql = publicationSQL(s, st)
	}
	return step{inTransaction, fmt.Sprintf("publication %s of the inserts into %s", s.Publication, s.Table()), "created", sql}
}

func slotStep(s *settings, st *state) step {
	name := fmt.Sprintf("replication slot %s", s.Slot)
	if st.slot == nil {
		return step{makeSlot, name, "created", slotSQL(s.Slot, st.server.major())}
	}
	if st.witness == nil {
		name += ", adopted at its position " + st.slot.confirmed
	}
	return step{makeSlot, name, "", ""}
}

func witnessStep(s *settings, st *state) step {
	name := fmt.Sprintf("pipeline %s", s.Pipeline)
	if st.witness == nil {
		return step{inTransaction, name, "created", witnessSQL(s.Identity)}
	}
	return step{inTransaction, fmt.Sprintf("%s, acked up to %s", name, st.witness.acked), "", ""}
}

// check returns everything that stands in the way, and nothing is changed
// while there is something.
func check(s *settings, st *state) (p Problems) {
	p = st.server.check(st)
	if st.schemaVersion > migrations.Latest() {
		p.add(cdc.CodeVersion, "use the newer outboxd", "schema outboxd is at version %d; this program knows %d", st.schemaVersion, migrations.Latest())
	}
	p = append(p, checkTable(s, st)...)
	if st.publication != nil {
		p = append(p, st.publication.check(s, st)...)
	}
	if st.slot != nil {
		p = append(p, st.slot.check(s, st)...)
	}
	if st.witness != nil {
		p = append(p, st.witness.check(s, st)...)
	}
	return append(p, checkRoles(s, st)...)
}

func checkTable(s *settings, st *state) (p Problems) {
	if st.table != nil {
		return st.table.check(s, st)
	}
	if mapping := s.columns.String(); mapping != "" {
		p.add(CodeTable, "name the existing table in --table, or leave --columns out to have one made",
			"table %s does not exist, and --columns %s describes an existing one", s.Table(), mapping)
	}
	switch {
	case !st.schema.exists:
		p.add(CodeTable, "CREATE SCHEMA "+quote(s.Schema), "the schema of table %s does not exist", s.Table())
	case !st.schema.mayCreate:
		p.add(cdc.CodePrivilege, fmt.Sprintf("as the schema's owner: GRANT CREATE ON SCHEMA %s TO %s", quote(s.Schema), quote(st.server.user)),
			"role %q may not create table %s", st.server.user, s.Table())
	}
	if st.ring != nil {
		p.add(CodeTable, fmt.Sprintf("restore the table, or forget it: DELETE FROM outboxd.ring WHERE outbox_table = %s", literal(s.Table())),
			"table %s was made by setup and is gone: dropped or renamed by hand", s.Table())
	}
	if last := fmt.Sprintf("%s_b%d", s.Name, retention.Buckets-1); len(last) > maxName {
		p.add(CodeTable, "choose a shorter --table", "the name of table %s leaves no room for those of its partitions", s.Table())
	}
	return p
}

func (w *witness) check(s *settings, st *state) (p Problems) {
	teardown := fmt.Sprintf("outboxd teardown --pipeline %s", s.Pipeline)
	if w.systemID != st.server.systemID {
		p.add(cdc.CodeSystemChanged, "check --database; to go on here all the same: "+s.overGap(),
			"pipeline %s ran on the cluster with system identifier %s, and this is %s: another cluster, an upgrade or a dump that was restored",
			s.Pipeline, w.systemID, st.server.systemID)
		return p
	}
	var differ []string
	for _, d := range []struct{ what, was, is string }{
		{"slot", w.slot, s.Slot}, {"publication", w.publication, s.Publication}, {"table", w.table, s.Table()},
	} {
		if d.was != d.is {
			differ = append(differ, fmt.Sprintf("%s %s, not %s", d.what, d.was, d.is))
		}
	}
	if len(differ) > 0 {
		p.add(cdc.CodeConfigMismatch, "give the same names as before, or another --pipeline; to begin anew: "+teardown,
			"pipeline %s exists with %s", s.Pipeline, strings.Join(differ, "; "))
	} else if st.slot == nil {
		p.add(cdc.CodeSlotMissing, "find out who dropped it. To go on with a new one: "+s.overGap(),
			"slot %q of pipeline %s is gone; it existed, and was acked up to %s when last seen (%s). It is not made again: what was written since would be skipped silently",
			s.Slot, s.Pipeline, w.acked, w.updated)
	}
	return p
}

// hasRing says whether the table is one that setup makes, or made.
func (st *state) hasRing() bool { return st.table == nil || st.ring != nil }

func (st *state) ringOf(s *settings) retention.Ring {
	if st.ring != nil {
		return *st.ring
	}
	return s.ring
}

func (st *state) columnsOf() map[string]tableColumn {
	if st.table == nil {
		return nil
	}
	return st.table.columns
}
