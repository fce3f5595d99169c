package setup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// publication is an existing one, as far as the outbox table is concerned.
type publication struct {
	insert, viaRoot bool
	covers          bool     // the table, by name, by schema, or as all tables
	listed          bool     // by name
	filtered        bool     // with a row filter
	columns         []string // nil: all
	others          int      // further tables in it
	schemas         int      // whole schemas in it
	allTables       bool
}

func readPublication(ctx context.Context, conn *pgx.Conn, major int, s *settings, t *table) (*publication, error) {
	var oid uint32
	if t != nil {
		oid = t.oid
	}
	// Before 15 there are no column lists, row filters or schemas.
	lists := "NULL::text[]"
	filter, inSchema, schemas := "false", "false", "0"
	if major >= 15 {
		lists = `(SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
			WHERE a.attrelid = r.prrelid AND r.prattrs IS NOT NULL AND a.attnum = ANY (r.prattrs::smallint[]))`
		filter = "coalesce(r.prqual IS NOT NULL, false)"
		inSchema = "EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid WHERE n.pnpubid = p.oid AND c.oid = $2)"
		schemas = "(SELECT count(*) FROM pg_publication_namespace n WHERE n.pnpubid = p.oid)"
	}
	var pub publication
	var schema bool
	err := conn.QueryRow(ctx, `
		SELECT p.pubinsert, p.pubviaroot, p.puballtables, r.oid IS NOT NULL, `+inSchema+`, `+filter+`, `+lists+`,
		       (SELECT count(*) FROM pg_publication_rel o WHERE o.prpubid = p.oid AND o.prrelid <> $2), `+schemas+`
		FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = $2
		WHERE p.pubname = $1`, s.Publication, oid).Scan(
		&pub.insert, &pub.viaRoot, &pub.allTables, &pub.listed, &schema, &pub.filtered, &pub.columns, &pub.others, &pub.schemas)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up publication %q: %w", s.Publication, err)
	}
	pub.covers = pub.listed || schema || pub.allTables
	return &pub, nil
}

// check names everything in an existing publication that would keep events
// from the relay. It is never changed here: others may use it, and a change
// takes effect in the middle of the stream.
func (pub *publication) check(s *settings, st *state) (p Problems) {
	name := quote(s.Publication)
	needed := s.published(st.table)
	if !pub.insert {
		p.add(cdc.CodePublicationGap, "ALTER PUBLICATION "+name+" SET (publish = 'insert')",
			"publication %q does not publish inserts", s.Publication)
	}
	if partitioned := st.table == nil || st.table.kind == "p"; partitioned && !pub.viaRoot {
		p.add(cdc.CodePublicationGap, "ALTER PUBLICATION "+name+" SET (publish_via_partition_root = true)",
			"publication %q publishes partitions under their own names, not as table %s", s.Publication, s.Table())
	}
	if !pub.covers {
		p.add(cdc.CodePublicationGap, alterLocked(s, "ALTER PUBLICATION "+name+" ADD TABLE "+target(s, st, needed)),
			"publication %q does not cover table %s", s.Publication, s.Table())
		return p
	}
	replace := alterLocked(s, fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s; ALTER PUBLICATION %[1]s ADD TABLE %s",
		name, s.sql(), target(s, st, needed)))
	if pub.filtered {
		p.add(cdc.CodePublicationGap, replace, "publication %q filters the rows of table %s: events would be left out", s.Publication, s.Table())
	}
	if pub.columns != nil {
		missing := slices.DeleteFunc(needed, func(c string) bool { return slices.Contains(pub.columns, c) })
		if len(missing) > 0 {
			p.add(cdc.CodePublicationGap, replace, "publication %q leaves out columns of table %s that the relay reads: %s",
				s.Publication, s.Table(), strings.Join(missing, ", "))
		}
	}
	return p
}

// alterLocked wraps a change of a publication in a lock on the table. Without
// it servers before 14.18, 15.13, 16.9 and 17.5 lose what transactions write
// that were open during the change.
func alterLocked(s *settings, alter string) string {
	return fmt.Sprintf("BEGIN; LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE; %s; COMMIT;", s.sql(), alter)
}

// target is the table with its column list, where the server allows one: from
// 15 on, and not beside whole schemas.
func target(s *settings, st *state, columns []string) string {
	if st.server.major() < 15 || st.publication != nil && st.publication.schemas > 0 {
		return s.sql()
	}
	quoted := make([]string, len(columns))
	for i, c := range columns {
		quoted[i] = quote(c)
	}
	return fmt.Sprintf("%s (%s)", s.sql(), strings.Join(quoted, ", "))
}

// publicationSQL makes the publication. Inserts only: rows are never updated,
// the relay has no use for deletes, and publishing those of a table without a
// replica identity would make them fail. The column list spares the server from
// sending what only the table itself needs.
func publicationSQL(s *settings, st *state) string {
	return fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish = 'insert', publish_via_partition_root = true);\n",
		quote(s.Publication), target(s, st, s.published(st.table)))
}
