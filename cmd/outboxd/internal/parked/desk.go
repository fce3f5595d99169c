package parked

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// Conditions that only a desk meets, beside those of cdc.
const (
	CodeNoPipeline cdc.Code = "no_such_pipeline" // nobody has set it up, or it has another name
	CodeNoMatch    cdc.Code = "nothing_parked"   // nothing parked is meant by that
	CodeNotHead    cdc.Code = "not_the_first"    // an earlier event of the key is parked
	CodeAmbiguous  cdc.Code = "ambiguous"        // a key at several destinations
)

// State is what is to become of a parked event.
type State string

const (
	Waiting   State = "parked"    // nobody has decided yet
	Retry     State = "retry"     // the leader will publish it
	Discard   State = "discard"   // the leader will discard it
	Discarded State = "discarded" // kept for the record, without payload and headers
)

// Row is a parked event with what became of it.
type Row struct {
	Event
	State    State
	Attempts int
	ParkedAt time.Time
	// MarkedBy is the role and the address that marked the row, Note the reason
	// that they gave.
	MarkedBy, Note string
}

// Selection says which parked events are meant; one of IDs, Key, Reason and All
// is given.
type Selection struct {
	// IDs are ids or positions.
	IDs []string
	// Key is an aggregate id, at Destination unless that is empty.
	Key         *string
	Destination string
	Reason      string
	All         bool
}

// Desk looks at the parked events of a pipeline and marks them. Its methods
// are for one goroutine at a time; their errors are *cdc.Error.
type Desk struct {
	conn     *pgx.Conn
	pipeline string
}

// OpenDesk connects. It is an error when there is no such pipeline.
func OpenDesk(ctx context.Context, database, pipeline string) (*Desk, error) {
	conn, err := cdc.Connect(ctx, database, "outboxd parked")
	if err != nil {
		return nil, err
	}
	d := &Desk{conn: conn, pipeline: pipeline}
	if err := d.check(ctx); err != nil {
		d.Close()
		err = named("look for the pipeline", err)
		var e *cdc.Error
		if errors.As(err, &e) && e.Code == cdc.CodeNotSetUp {
			e.Fix = "outboxd setup --pipeline " + pipeline
		}
		return nil, err
	}
	return d, nil
}

func (d *Desk) check(ctx context.Context) error {
	var exists bool
	var others string
	err := d.conn.QueryRow(ctx, `SELECT coalesce(bool_or(pipeline = $1), false), coalesce(string_agg(pipeline, ', ' ORDER BY pipeline), '')
		FROM outboxd.witness`, d.pipeline).Scan(&exists, &others)
	if err != nil || exists {
		return err
	}
	e := &cdc.Error{Code: CodeNoPipeline, Detail: fmt.Sprintf("there is no pipeline %s in this database", d.pipeline), Fix: "outboxd setup --pipeline " + d.pipeline}
	if others != "" {
		e.Fix = "give the --pipeline that is meant: " + others
	}
	return e
}

// Close ends the connection.
func (d *Desk) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = d.conn.Close(ctx)
}

// Group is the parked events with one reason, in one state.
type Group struct {
	Reason string
	State  State
	Events int
	Keys   int
	Bytes  int64
	Oldest time.Time // parked since
}

// Groups sums up everything that is parked, the largest group first.
func (d *Desk) Groups(ctx context.Context) ([]Group, error) {
	rows, err := d.conn.Query(ctx, `SELECT reason, state, count(*), count(DISTINCT coalesce(domain, convert_to(position, 'UTF8'))), sum(size)::bigint, min(parked_at)
		FROM outboxd.parked WHERE pipeline = $1 AND state <> 'discarded' GROUP BY reason, state ORDER BY count(*) DESC, reason, state`, d.pipeline)
	if err != nil {
		return nil, named("list parked events", err)
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Group])
	if err != nil {
		return nil, named("list parked events", err)
	}
	return groups, nil
}

const rowColumns = `position, destination, id, aggregatetype, aggregateid, type, payload_kind, commit_time, size, reason, detail, state, attempts, parked_at, marked_at, marked_by, note`

// List returns the events of a selection that are parked, in the order of their
// positions, at most limit of them and without payload, headers and time.
func (d *Desk) List(ctx context.Context, sel Selection, limit int) ([]Row, error) {
	where, args := d.where(sel)
	rows, err := d.conn.Query(ctx, fmt.Sprintf(`SELECT %s FROM outboxd.parked p WHERE %s AND state <> 'discarded' ORDER BY position LIMIT %d`, rowColumns, where, limit), args...)
	if err != nil {
		return nil, named("list parked events", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Row, error) {
		var r Row
		err := r.scan(row)
		return r, err
	})
	if err != nil {
		return nil, named("list parked events", err)
	}
	return list, nil
}

// Show returns everything of the row of an id or a position, also of one that
// was discarded.
func (d *Desk) Show(ctx context.Context, id string) (*Row, error) {
	var r Row
	var created *time.Time
	where, args := d.where(Selection{IDs: []string{id}})
	row := d.conn.QueryRow(ctx, `SELECT `+rowColumns+`, payload, headers, created_at FROM outboxd.parked p WHERE `+where+` ORDER BY state = 'discarded', position LIMIT 1`, append([]any{binary}, args...)...)
	err := r.scan(row, &r.Payload, &r.Headers, &created)
	if err == pgx.ErrNoRows {
		return nil, d.noMatch(Selection{IDs: []string{id}})
	}
	if err != nil {
		return nil, named("show a parked event", err)
	}
	if created != nil {
		r.Time = *created
	}
	return &r, nil
}

// scan reads rowColumns, and more behind them.
func (r *Row) scan(row pgx.Row, more ...any) error {
	var position, kind string
	var size int64
	var marked *time.Time
	err := row.Scan(append([]any{&position, &r.Destination, &r.ID, &r.AggregateType, &r.AggregateID, &r.Type, &kind, &r.CommitTime, &size,
		&r.Reason, &r.Detail, &r.State, &r.Attempts, &r.ParkedAt, &marked, &r.MarkedBy, &r.Note}, more...)...)
	if err != nil {
		return err
	}
	if marked != nil {
		r.MarkedAt = *marked
	}
	r.setKind(kind)
	r.Position, err = cdc.ParsePosition(position)
	return err
}

// where returns the condition for rows p of a selection, and its arguments.
func (d *Desk) where(sel Selection) (string, []any) {
	switch {
	case sel.IDs != nil:
		ids := make([][]byte, len(sel.IDs))
		for i, id := range sel.IDs {
			ids[i] = []byte(id)
		}
		return "p.pipeline = $1 AND (p.id = ANY ($2::bytea[]) OR p.position = ANY ($3::text[]))", []any{d.pipeline, ids, sel.IDs}
	case sel.Key != nil && sel.Destination != "":
		return "p.pipeline = $1 AND p.aggregateid = $2::bytea AND p.destination = $3", []any{d.pipeline, []byte(*sel.Key), sel.Destination}
	case sel.Key != nil:
		return "p.pipeline = $1 AND p.aggregateid = $2::bytea", []any{d.pipeline, []byte(*sel.Key)}
	case sel.Reason != "":
		return "p.pipeline = $1 AND p.reason = $2", []any{d.pipeline, sel.Reason}
	default:
		return "p.pipeline = $1", []any{d.pipeline}
	}
}

func (d *Desk) noMatch(sel Selection) error {
	what := "nothing"
	switch {
	case sel.IDs != nil:
		what = "no event with the id or position " + strings.Join(sel.IDs, ", ")
	case sel.Key != nil:
		what = fmt.Sprintf("no event with the aggregate id %q", *sel.Key)
		if sel.Destination != "" {
			what += fmt.Sprintf(" for %q", sel.Destination)
		}
	case sel.Reason != "":
		what = fmt.Sprintf("no event with the reason %q", sel.Reason)
	}
	return &cdc.Error{Code: CodeNoMatch, Detail: fmt.Sprintf("%s is parked in pipeline %s", what, d.pipeline), Fix: "outboxd parked list --pipeline " + d.pipeline}
}
