package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
)

// table is what a replay must know of the event table.
type table struct {
	name     string // schema.name, unquoted
	columns  relay.Columns
	relation *cdc.Relation     // the columns that are read, in their order
	types    map[string]string // of all columns, as SQL names them
	// ordered: setup made it, so that seq tells the order of its rows and xid
	// the transaction.
	ordered bool
	// parks: there is a table of parked events.
	parks bool
}

// inspect looks at the table's columns. The types are those of the catalog, as
// the stream has them: a domain is not taken for the type below it.
func inspect(ctx context.Context, conn *pgx.Conn, name string, columns relay.Columns) (*table, error) {
	t := &table{name: name, columns: columns, types: map[string]string{}}
	schema, plain, _ := strings.Cut(name, ".")
	rows, err := conn.Query(ctx, `SELECT a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
		WHERE a.attrelid = to_regclass(quote_ident($1) || '.' || quote_ident($2)) AND a.attnum > 0 AND NOT a.attisdropped`, schema, plain)
	if err != nil {
		return nil, databaseError("read the columns of table "+name, err)
	}
	oids := map[string]uint32{}
	var column, typ string
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&column, &oid, &typ}, func() error {
		oids[column], t.types[column] = oid, typ
		return nil
	})
	if err != nil {
		return nil, databaseError("read the columns of table "+name, err)
	}
	if len(oids) == 0 {
		return nil, &cdc.Error{Code: cdc.CodeConfig, Detail: fmt.Sprintf("table %s does not exist", name), Fix: "check --table and --database"}
	}
	if err := conn.QueryRow(ctx, "SELECT to_regclass('outboxd.parked') IS NOT NULL").Scan(&t.parks); err != nil {
		return nil, databaseError("look for parked events", err)
	}
	t.ordered = oids["seq"] == pgtype.Int8OID && oids["xid"] == pgtype.XID8OID
	t.relation = &cdc.Relation{Schema: schema, Name: plain}
	for _, c := range columns.Names() {
		if oid, ok := oids[c]; ok {
			t.relation.Columns = append(t.relation.Columns, cdc.Column{Name: c, Type: oid})
		}
	}
	return t, nil
}

// rowAlias is what a row of the table is called in a query.
const rowAlias = "r"

// sql is the table for use in SQL.
func (t *table) sql() string {
	return pgx.Identifier{t.relation.Schema, t.relation.Name}.Sanitize()
}

// has says whether the table has the column.
func (t *table) has(column string) bool { _, ok := t.types[column]; return ok }

// order is what rows are sorted by.
func (t *table) order() []string {
	if t.ordered {
		return []string{"seq"}
	}
	created, id := t.columns.CreatedAtName(), quote(t.columns.IDName())
	if t.has(created) {
		return []string{quote(created), id}
	}
	return []string{id}
}

// list is what is selected: the columns of the relation, then seq, or NULL.
func (t *table) list() string {
	var names []string
	for _, c := range t.relation.Columns {
		names = append(names, quote(c.Name))
	}
	if t.ordered {
		return strings.Join(append(names, "seq"), ", ")
	}
	return strings.Join(append(names, "NULL"), ", ")
}

// descending is order from the end.
func descending(order []string) []string {
	order = slices.Clone(order)
	for i := range order {
		order[i] += " DESC"
	}
	return order
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
