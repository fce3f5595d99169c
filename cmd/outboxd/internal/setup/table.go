package setup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
)

// schema is the one that the table is in, or shall be in.
type schema struct {
	exists, mayCreate bool
}

func readTableSchema(ctx context.Context, conn *pgx.Conn, names Identity) (schema, error) {
	found := schema{exists: true}
	err := conn.QueryRow(ctx, "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1", names.Schema).Scan(&found.mayCreate)
	if errors.Is(err, pgx.ErrNoRows) {
		return schema{}, nil
	}
	if err != nil {
		return schema{}, fmt.Errorf("look up schema %s: %w", names.Schema, err)
	}
	return found, nil
}

// table is an existing outbox table.
type table struct {
	oid         uint32
	kind        string // pg_class.relkind
	persistence string // pg_class.relpersistence
	partition   bool   // it is a partition of another table
	oddLeaves   int    // partitions that are unlogged or foreign
	mayOwn      bool   // we are its owner, or may act as its owner
	columns     map[string]tableColumn
}

type tableColumn struct {
	typ       string // base type: a domain's is the type below it
	generated bool
}

func readTable(ctx context.Context, conn *pgx.Conn, names Identity) (*table, error) {
	t := table{columns: make(map[string]tableColumn)}
	err := conn.QueryRow(ctx, `
		SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relispartition, pg_has_role(c.relowner, 'USAGE'),
		       (SELECT count(*) FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
		        WHERE p.isleaf AND l.oid <> c.oid AND (l.relpersistence <> 'p' OR l.relkind <> 'r'))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2`, names.Schema, names.Name).Scan(
		&t.oid, &t.kind, &t.persistence, &t.partition, &t.mayOwn, &t.oddLeaves)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up table %s: %w", names.Table(), err)
	}
	rows, err := conn.Query(ctx, `
		WITH RECURSIVE base (attnum, typid) AS (
			SELECT attnum, atttypid FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
			UNION ALL
			SELECT b.attnum, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typid WHERE t.typtype = 'd'
		)
		SELECT a.attname, t.typname, a.attgenerated <> ''
		FROM base b JOIN pg_type t ON t.oid = b.typid AND t.typtype <> 'd'
		JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = b.attnum`, t.oid)
	if err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", names.Table(), err)
	}
	var name string
	var col tableColumn
	_, err = pgx.ForEachRow(rows, []any{&name, &col.typ, &col.generated}, func() error {
		t.columns[name] = col
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", names.Table(), err)
	}
	return &t, nil
}

// check names everything about an existing table that the relay cannot work
// with.
func (t *table) check(s *settings, st *state) (p Problems) {
	name := s.Table()
	switch {
	case t.kind != "r" && t.kind != "p":
		p.add(CodeTable, "name an ordinary or partitioned table in --table",
			"%s is no table (relkind %s): only what is written to the WAL of this server can be relayed", name, t.kind)
		return p
	case t.persistence != "p":
		p.add(CodeTable, fmt.Sprintf("ALTER TABLE %s SET LOGGED", s.sql()),
			"table %s is unlogged or temporary: its rows are not in the WAL", name)
	case t.partition:
		p.add(CodeTable, "name the partitioned table itself in --table", "table %s is a partition of another table", name)
	case t.oddLeaves > 0:
		p.add(CodeTable, "make every partition an ordinary logged table", "table %s has %d partitions that are unlogged or foreign", name, t.oddLeaves)
	}
	for _, want := range s.columns.list() {
		p = append(p, t.checkColumn(name, want)...)
	}
	if !t.mayOwn && (st.publication == nil || s.relayRole != "" || s.appRole != "") {
		p.add(cdc.CodePrivilege, fmt.Sprintf("run setup as the owner of table %s, or give its owner's SQL to them: outboxd setup --print", name),
			"role %q does not own table %s, which it takes to publish it and to grant on it", st.server.user, name)
	}
	if st.ring != nil && s.asked && s.retention > st.ring.Holds() {
		p.add(cdc.CodeConfig, fmt.Sprintf("ask for --retention %s or less, or make another table", st.ring.Holds()),
			"the partitions of table %s hold %s and cannot be changed; the retention asked for is %s", name, st.ring.Holds(), s.retention)
	}
	return p
}

func (t *table) checkColumn(table string, want column) (p Problems) {
	found, ok := t.columns[want.name]
	mapping := fmt.Sprintf("name the column that holds it: --columns %s=COLUMN", want.field)
	switch {
	case !ok && want.optional:
	case !ok:
		p.add(CodeTable, mapping, "table %s has no column %q for the event's %s", table, want.name, want.field)
	case !want.accepts(found.typ):
		p.add(CodeTable, mapping, "column %q of table %s is of type %s; the event's %s must be one of %s",
			want.name, table, found.typ, want.field, strings.Join(want.types, ", "))
	case found.generated:
		p.add(CodeTable, mapping, "column %q of table %s is generated, and generated columns are not published", want.name, table)
	}
	return p
}

// published returns the columns that the relay reads, in order: all of a table
// made here, those that exist of another.
func (s *settings) published(t *table) []string {
	var names []string
	for _, col := range s.columns.list() {
		if t != nil && col.optional {
			if _, ok := t.columns[col.name]; !ok {
				continue
			}
		}
		names = append(names, col.name)
	}
	return names
}

// partitions are the ring's, quoted, by bucket.
func partitions(names Identity, ring retention.Ring) []string {
	list := make([]string, ring.Buckets)
	for i := range list {
		list[i] = pgx.Identifier{names.Schema, fmt.Sprintf("%s_b%d", names.Name, i)}.Sanitize()
	}
	return list
}

// tableSQL makes the outbox table, its ring and the function that writes to it.
//
// No index and no primary key: nothing reads the table but replay and the
// rotation, and both read whole partitions, seldom. An index would be paid for
// with every business transaction. Replay filters by xid and sorts by seq; in
// the rare hour when it runs, a scan of a few days' rows is what it costs. The
// event's id is unique because it is made to be.
//
// The time is clock_timestamp(), when the row is written, not now(), when its
// transaction began: a row of a long transaction must not land in a bucket that
// is old already. Vacuums that only set visibility bits are off: the rows are
// truncated before anything reads them again.
func (s *settings) tableSQL(publisher string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `CREATE TABLE %[1]s (
    id            uuid        NOT NULL,
    aggregatetype text        NOT NULL,
    aggregateid   text        NOT NULL,
    type          text        NOT NULL,
    payload       %[2]s,
    headers       jsonb,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    bucket        smallint    NOT NULL DEFAULT (floor(date_part('epoch', clock_timestamp()) / %[3]d)::bigint %% %[4]d)::smallint,
    seq           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    xid           xid8        NOT NULL DEFAULT pg_current_xact_id()
) PARTITION BY LIST (bucket);
REVOKE ALL ON TABLE %[1]s FROM PUBLIC;
`, s.sql(), s.payload, int64(s.ring.Width.Seconds()), s.ring.Buckets)
	for i, partition := range partitions(s.Identity, s.ring) {
		fmt.Fprintf(&b, "CREATE TABLE %s PARTITION OF %s FOR VALUES IN (%d) WITH (autovacuum_vacuum_insert_threshold = -1);\n", partition, s.sql(), i)
		fmt.Fprintf(&b, "REVOKE ALL ON TABLE %s FROM PUBLIC;\n", partition)
	}
	fmt.Fprintf(&b, "INSERT INTO outboxd.ring (outbox_table, buckets, width_seconds) VALUES (%s, %d, %d);\n",
		literal(s.Table()), s.ring.Buckets, int64(s.ring.Width.Seconds()))
	b.WriteString(s.publisherSQL(publisher))
	return b.String()
}

// publisherSQL makes the function by which any language writes one event. It
// runs with the rights of its caller and names everything in full.
func (s *settings) publisherSQL(name string) string {
	function := pgx.Identifier{"outboxd", name}.Sanitize()
	return fmt.Sprintf(`CREATE FUNCTION %[1]s(
    aggregatetype text,
    aggregateid   text,
    type          text,
    payload       %[2]s,
    headers       jsonb DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    event_id uuid := outboxd.uuidv7();
BEGIN
    INSERT INTO %[3]s (id, aggregatetype, aggregateid, type, payload, headers)
    VALUES (event_id, %[4]s.aggregatetype, %[4]s.aggregateid, %[4]s.type, %[4]s.payload, %[4]s.headers);
    RETURN event_id;
END
$function$;
REVOKE ALL ON FUNCTION %[1]s FROM PUBLIC;
COMMENT ON FUNCTION %[1]s IS %[5]s;
`, function, s.payload, s.sql(), quote(name), literal(publisherComment+s.Table()))
}

// publisherComment begins the comment by which the function's table is known.
const publisherComment = "outboxd: writes one event to "

func readPublishers(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	rows, err := conn.Query(ctx, `SELECT proname, coalesce(obj_description(oid, 'pg_proc'), '') FROM pg_proc
		WHERE pronamespace = 'outboxd'::regnamespace AND (proname = 'publish' OR proname LIKE 'publish\_%')`)
	if err != nil {
		return nil, fmt.Errorf("look up the functions of schema outboxd: %w", err)
	}
	found := make(map[string]string)
	var name, comment string
	_, err = pgx.ForEachRow(rows, []any{&name, &comment}, func() error {
		found[name] = strings.TrimPrefix(comment, publisherComment)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up the functions of schema outboxd: %w", err)
	}
	return found, nil
}

// publisher returns the name of the function that writes to the table: the
// first table of a database has outboxd.publish, others one with the name of
// the pipeline. There is none for a table that setup did not make: its columns
// are its owner's business.
func (st *state) publisher(s *settings) string {
	for name, table := range st.publishers {
		if table == s.Table() {
			return name
		}
	}
	if _, taken := st.publishers["publish"]; taken {
		return "publish_" + s.Pipeline
	}
	return "publish"
}
