package relay

import (
	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
)

// Stored reads rows of the event table that come from a query instead of the
// stream, and makes the same events of them. It is for one goroutine.
type Stored struct {
	plan    *plan
	scratch []byte
}

// NewStored returns a Stored for rows as rel describes them. Its error is a
// *MissingColumnsError.
func NewStored(rel *cdc.Relation, columns Columns) (*Stored, error) {
	p, err := newPlan(rel, columns)
	if err != nil {
		return nil, err
	}
	return &Stored{plan: p}, nil
}

// Event reads row into ev, whose slices are valid until the next call or the end
// of the row's. Position, CommitTime and marks are left as they are. Its error
// is a *publisher.PoisonError.
func (s *Stored) Event(row []cdc.Value, ev *record.Event) (err error) {
	s.scratch, err = s.plan.event(row, ev, s.scratch)
	return err
}

// Names returns the names of the columns, the defaults filled in: those that
// every event needs, then those that the table may lack.
func (c Columns) Names() []string {
	names := c.names()
	return names[:]
}

// IDName and CreatedAtName are the names of those two columns.
func (c Columns) IDName() string        { return c.names()[roleID] }
func (c Columns) CreatedAtName() string { return c.names()[roleCreatedAt] }
