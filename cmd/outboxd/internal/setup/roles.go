package setup

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// role is an existing one.
type role struct {
	login, replication bool
}

func readRoles(ctx context.Context, conn *pgx.Conn, names ...string) (map[string]role, error) {
	rows, err := conn.Query(ctx, `SELECT rolname, rolcanlogin, rolsuper OR rolreplication OR EXISTS (
			SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(r.oid, g.oid, 'USAGE'))
		FROM pg_roles r WHERE rolname = ANY ($1)`, names)
	if err != nil {
		return nil, fmt.Errorf("look up roles: %w", err)
	}
	found := make(map[string]role)
	var name string
	var r role
	_, err = pgx.ForEachRow(rows, []any{&name, &r.login, &r.replication}, func() error {
		found[name] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up roles: %w", err)
	}
	return found, nil
}

// checkRoles names what the roles lack that only a superuser should give.
func checkRoles(s *settings, st *state) (p Problems) {
	if s.relayRole != "" {
		r, ok := st.roles[s.relayRole]
		switch {
		case !ok:
			p.add(CodeRole, "CREATE ROLE "+quote(s.relayRole)+" LOGIN REPLICATION PASSWORD '…'", "role %q of --relay-role does not exist", s.relayRole)
		case !r.login || !r.replication:
			p.add(cdc.CodePrivilege, "as a superuser: ALTER ROLE "+quote(s.relayRole)+" LOGIN REPLICATION",
				"role %q of --relay-role lacks LOGIN or REPLICATION", s.relayRole)
		}
	}
	if s.appRole != "" {
		if _, ok := st.roles[s.appRole]; !ok {
			p.add(CodeRole, "CREATE ROLE "+quote(s.appRole)+" LOGIN PASSWORD '…'", "role %q of --app-role does not exist", s.appRole)
		}
	}
	return p
}

// relaySQL grants what `run` needs and nothing more: the witness, what is parked,
// the ring, the table for replay, and to empty the ring's partitions. To stream takes
// REPLICATION, which reads every table's changes, and no grant at all.
func relaySQL(s *settings, st *state) string {
	to := quote(s.relayRole)
	var b strings.Builder
	fmt.Fprintf(&b, "GRANT CONNECT ON DATABASE %s TO %s;\n", quote(st.database), to)
	fmt.Fprintf(&b, "GRANT USAGE ON SCHEMA outboxd, %s TO %s;\n", quote(s.Schema), to)
	fmt.Fprintf(&b, "GRANT SELECT, INSERT, UPDATE ON outboxd.witness TO %s;\n", to)
	fmt.Fprintf(&b, "GRANT SELECT, INSERT, UPDATE, DELETE ON outboxd.parked TO %s;\n", to)
	fmt.Fprintf(&b, "GRANT SELECT ON outboxd.ring, outboxd.schema_version TO %s;\n", to)
	fmt.Fprintf(&b, "GRANT SELECT, INSERT (pipeline, action, from_position, to_position, reason) ON outboxd.audit TO %s;\n", to)
	fmt.Fprintf(&b, "GRANT SELECT ON %s TO %s;\n", s.sql(), to)
	if st.hasRing() {
		fmt.Fprintf(&b, "GRANT SELECT, TRUNCATE ON %s TO %s;\n", strings.Join(partitions(s.Identity, st.ringOf(s)), ", "), to)
	}
	return b.String()
}

// appSQL grants what a service needs to write events: the columns that it has
// to give, not those by which the table is kept in order, and the functions. It
// cannot read or change an event, also not its own.
func appSQL(s *settings, st *state) string {
	to := quote(s.appRole)
	var columns []string
	for _, col := range s.columns.list() {
		if col.field == "created_at" && st.hasRing() {
			continue // its default is the truth
		}
		if _, ok := st.columnsOf()[col.name]; !ok && !st.hasRing() {
			continue
		}
		columns = append(columns, quote(col.name))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "GRANT CONNECT ON DATABASE %s TO %s;\n", quote(st.database), to)
	fmt.Fprintf(&b, "GRANT USAGE ON SCHEMA outboxd, %s TO %s;\n", quote(s.Schema), to)
	fmt.Fprintf(&b, "GRANT INSERT (%s) ON %s TO %s;\n", strings.Join(columns, ", "), s.sql(), to)
	fmt.Fprintf(&b, "GRANT EXECUTE ON FUNCTION outboxd.uuidv7, outboxd.emit TO %s;\n", to)
	if st.hasRing() {
		fmt.Fprintf(&b, "GRANT EXECUTE ON FUNCTION %s TO %s;\n", pgx.Identifier{"outboxd", st.publisher(s)}.Sanitize(), to)
	}
	return b.String()
}

// forgeryNote tells what no grant here prevents.
func forgeryNote(major int) string {
	functions := "pg_logical_emit_message(boolean, text, text), pg_logical_emit_message(boolean, text, bytea)"
	if major >= 17 {
		functions = "pg_logical_emit_message(boolean, text, text, boolean), pg_logical_emit_message(boolean, text, bytea, boolean)"
	}
	return "any role may write logical messages, and so forge events. To forbid it, as a superuser: REVOKE EXECUTE ON FUNCTION " + functions +
		" FROM PUBLIC. outboxd.emit keeps working; services that use the Go package's Emit need the first of them granted"
}
