package cdc

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// publication is what the catalog says of the publication and the table.
type publication struct {
	// fingerprint changes when the publication was altered or recreated, or
	// the table was taken out of it and put back: the rows of the catalog that
	// make the table published are then others.
	fingerprint string
	// binary: every published column has a type that we read in binary form.
	binary bool
	// table is the OID of cfg.Table, 0 without one.
	table uint32
	// age is that of the transaction that made it or altered it last.
	age int64
}

// inspectPublication checks that the publication covers cfg.Table now. Without
// a table it only has to exist.
func inspectPublication(ctx context.Context, conn *pgx.Conn, version int, cfg *Config) (publication, error) {
	var (
		p            publication
		insert, root bool
		covered      bool
		filter       string
		kind         string
		types        []uint32
		columns      []string
	)
	rows, err := conn.Query(ctx, publicationSQL(version), cfg.Publication, cfg.Table)
	if err != nil {
		return p, queryError("read the publication", err)
	}
	found := false
	for rows.Next() {
		found = true
		if err := rows.Scan(&insert, &root, &covered, &filter, &kind, &types, &columns, &p.fingerprint, &p.table, &p.age); err != nil {
			rows.Close()
			return p, queryError("read the publication", err)
		}
	}
	if err := rows.Err(); err != nil {
		return p, queryError("read the publication", err)
	}
	p.binary = BinarySafe(types)
	name := pgx.Identifier{cfg.Publication}.Sanitize()
	table := cfg.quotedTable()
	switch {
	case !found:
		return p, &Error{Code: CodePublication, Detail: fmt.Sprintf("publication %s does not exist", name),
			Fix: "if it was dropped: " + createPublication(cfg) + "; a publication must be older than its slot. " + newSlotFix(cfg)}
	case cfg.Table == "":
		return p, nil
	case p.table == 0:
		return p, &Error{Code: CodePublicationGap, Detail: fmt.Sprintf("table %s does not exist", cfg.Table),
			Fix: "check --table; outboxd setup creates a missing outbox table"}
	case !covered:
		return p, &Error{Code: CodePublicationGap, Detail: fmt.Sprintf("publication %s does not cover the table %s: its events are not in the stream", name, cfg.Table),
			Fix: fmt.Sprintf("BEGIN; LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE; ALTER PUBLICATION %s ADD TABLE %[1]s; COMMIT; then %[3]s", table, name, overGap(cfg))}
	case !insert:
		return p, &Error{Code: CodePublicationGap, Detail: fmt.Sprintf("publication %s does not publish inserts", name),
			Fix: fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert'); then %s", name, overGap(cfg))}
	case filter != "":
		return p, &Error{Code: CodePublicationGap, Detail: fmt.Sprintf("publication %s filters the rows of %s: %s", name, cfg.Table, filter),
			Fix: fmt.Sprintf("ALTER PUBLICATION %s SET TABLE %s; then %s", name, table, overGap(cfg))}
	case kind == "p" && !root:
		return p, &Error{Code: CodePublicationGap, Detail: fmt.Sprintf("%s is partitioned, and publication %s publishes its partitions under their own names", cfg.Table, name),
			Fix: fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = true); then %s", name, overGap(cfg))}
	}
	if cfg.CheckColumns != nil {
		if err := cfg.CheckColumns(columns); err != nil {
			return p, &Error{Code: CodeColumns, Detail: "check the published columns", Err: err}
		}
	}
	return p, nil
}

// publicationSQL selects one row for the publication $1 with what concerns the
// table $2.
func publicationSQL(version int) string {
	filter := "''"
	published := `FROM pg_attribute a WHERE a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped`
	if version >= 15_00_00 {
		filter = `coalesce((SELECT string_agg(pg_get_expr(r.prqual, r.prrelid), '; ') FROM pg_publication_rel r
			WHERE r.prpubid = p.oid AND r.prrelid = rel.oid AND r.prqual IS NOT NULL), '')`
		published = `FROM pg_attribute a LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = rel.oid
			WHERE a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
			AND (r.prattrs IS NULL OR a.attnum = ANY (r.prattrs::int2[]))`
	}
	schemas := "''"
	if version >= 15_00_00 {
		schemas = `coalesce((SELECT string_agg(n.oid || '.' || n.xmin, ',') FROM pg_publication_namespace n
			WHERE n.pnpubid = p.oid AND n.pnnspid = rel.relnamespace), '')`
	}
	return strings.Join([]string{`SELECT p.pubinsert, p.pubviaroot,
		EXISTS (SELECT FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
			JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
			WHERE t.pubname = p.pubname AND (c.oid = rel.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(rel.oid)))), `,
		filter, `, coalesce(rel.relkind::text, ''), coalesce((SELECT array_agg(a.atttypid ORDER BY a.attnum) `, published, `), '{}'),
		coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) `, published, `), '{}'),
		p.oid || '.' || p.xmin || ':' || coalesce((SELECT string_agg(r.oid || '.' || r.xmin, ',' ORDER BY r.oid)
			FROM pg_publication_rel r WHERE r.prpubid = p.oid AND (r.prrelid = rel.oid
				OR r.prrelid IN (SELECT relid FROM pg_partition_ancestors(rel.oid) a(relid)))), '') || ':' || `, schemas, `,
		coalesce(rel.oid, 0::oid), age(p.xmin)
		FROM pg_publication p LEFT JOIN pg_class rel ON rel.oid = to_regclass(quote_ident(split_part($2, '.', 1)) || '.' || quote_ident(split_part($2, '.', 2)))
		WHERE p.pubname = $1`}, "")
}

// checkFingerprint compares the publication with what the witness knows of it.
func checkFingerprint(cfg *Config, p publication, w *witness) error {
	if w.fingerprint == "" || w.fingerprint == p.fingerprint {
		return nil
	}
	return &Error{Code: CodePublicationGap,
		Detail: fmt.Sprintf("publication %s was altered or recreated, or the table %s was taken out of it and put back, after %s, where it was last found in order; events written while it was out were not published",
			pgx.Identifier{cfg.Publication}.Sanitize(), cfg.Table, cmp.Or(w.checked, w.acked.confirm)),
		Fix: "To go on: " + overGap(cfg)}
}

// recreated reports whether the publication is another one than the witness
// knows: younger than the slot's position, which cannot be read with it.
func recreated(p publication, w *witness) bool {
	before, _, _ := strings.Cut(w.fingerprint, ".")
	now, _, _ := strings.Cut(p.fingerprint, ".")
	return before != "" && before != now
}

// readableWith reports whether the slot can be read with the publication: that
// was there before all transactions which the slot may send. It errs on the side
// of no.
func (p publication) readableWith(st *slotState) bool { return p.age > st.catalogAge }

// createPublication makes the publication as setup does.
func createPublication(cfg *Config) string {
	create := "CREATE PUBLICATION " + pgx.Identifier{cfg.Publication}.Sanitize()
	if cfg.Table == "" {
		return create
	}
	return create + " FOR TABLE " + cfg.quotedTable() + " WITH (publish = 'insert', publish_via_partition_root = true)"
}

// Seal notes in the witness of cfg.Pipeline what the publication is now, if
// nothing was noted yet, so that a change is noticed also before the first
// session. It needs the rights of the relay's role.
func Seal(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	srv, err := inspectServer(ctx, conn)
	if err != nil {
		return err
	}
	p, err := inspectPublication(ctx, conn, srv.version, &cfg)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `UPDATE outboxd.witness SET publication_fingerprint = $2
		WHERE pipeline = $1 AND publication_fingerprint = ''`, cfg.Pipeline, p.fingerprint)
	if err != nil {
		return queryError("seal the publication", err)
	}
	return nil
}
