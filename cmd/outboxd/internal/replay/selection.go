package replay

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/outboxd/outboxd/cdc"
)

// Selection says which rows: those with one of the IDs, or those created at or
// after Since and before Until, or those of transactions with the xid From or a
// later one. One of IDs, Since and From is set.
type Selection struct {
	IDs          []string
	Since, Until time.Time // zero Until: no end
	From         string    // xid8
	// Parked leaves out what is parked of that pipeline, or was and is
	// discarded: who released it would publish it behind its successors.
	Parked string
	// Resume leaves out what was published before.
	Resume Resume
}

// condition is a WHERE clause and its parameters, in text form.
type condition struct {
	terms  []string
	values [][]byte
}

// add adds a term, in which %d stands for the number of the parameter value.
func (c *condition) add(term, value string) {
	c.values = append(c.values, []byte(value))
	c.terms = append(c.terms, fmt.Sprintf(term, len(c.values)))
}

func (c *condition) sql() string { return strings.Join(c.terms, " AND ") }

// where returns the condition for rows of t. Its error is an *cdc.Error: the
// table lacks what the selection needs.
func (s Selection) where(t *table) (*condition, error) {
	c := &condition{}
	lacks := func(column, option, instead string) error {
		return &cdc.Error{Code: cdc.CodeConfig, Detail: fmt.Sprintf("table %s has no column %s, which %s needs", t.name, column, option), Fix: instead}
	}
	created := t.columns.CreatedAtName()
	switch {
	case len(s.IDs) > 0:
		list, err := json.Marshal(s.IDs)
		if err != nil {
			return nil, err
		}
		id := t.columns.IDName()
		c.add(fmt.Sprintf("%s = ANY (ARRAY(SELECT json_array_elements_text($%%d::json))::%s[])", quote(id), t.types[id]), string(list))
	case s.From != "":
		if !t.ordered {
			return nil, lacks("xid of type xid8, or seq of type bigint", "a replay by transaction", "choose rows by --since or --id")
		}
		c.add("xid >= $%d::xid8", s.From)
	default:
		if !t.has(created) {
			return nil, lacks(created, "--since", "name it with --columns created_at=COLUMN, or choose rows by --id")
		}
		c.add(quote(created)+" >= $%d::timestamptz", s.Since.Format(time.RFC3339Nano))
		if !s.Until.IsZero() {
			c.add(quote(created)+" < $%d::timestamptz", s.Until.Format(time.RFC3339Nano))
		}
	}
	if s.Parked != "" && t.parks {
		c.add("NOT EXISTS (SELECT FROM outboxd.parked p WHERE p.pipeline = $%d AND p.id = convert_to("+rowAlias+"."+quote(t.columns.IDName())+"::text, 'UTF8'))", s.Parked)
	}
	if s.Resume != (Resume{}) {
		if !t.ordered {
			return nil, lacks("seq of type bigint", "--resume", "run the replay again from its beginning")
		}
		c.add(fmt.Sprintf("(seq >= %d OR NOT pg_visible_in_snapshot(xid, $%%d::pg_snapshot))", s.Resume.Seq), s.Resume.Snapshot)
	}
	return c, nil
}
