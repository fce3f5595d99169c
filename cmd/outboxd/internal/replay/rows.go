package replay

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
)

// Values must look as in the stream, whatever the role's or the database's
// settings are, and nothing may end a session that a slow broker holds up.
var sessionSettings = []string{
	"client_encoding = 'UTF8'", "datestyle = 'ISO'", "intervalstyle = 'postgres'", "timezone = 'UTC'", "extra_float_digits = 3", "bytea_output = 'hex'",
	"statement_timeout = 0", "lock_timeout = 0", "idle_in_transaction_session_timeout = 0", "idle_session_timeout = 0",
}

// connect opens a connection for reading the table.
func (r *Replay) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := cdc.Connect(ctx, r.Database, r.Application)
	if err != nil {
		return nil, err
	}
	// The last is there from PostgreSQL 17 on.
	set := "SET " + strings.Join(sessionSettings, "; SET ") + "; SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'"
	if _, err := conn.PgConn().Exec(ctx, set).ReadAll(); err != nil {
		closeConn(conn)
		return nil, databaseError("prepare the session", err)
	}
	return conn, nil
}

// snapshot is a transaction that sees one state of the table.
type snapshot struct {
	conn  *pgx.Conn
	table *table
	text  string // pg_snapshot
	now   time.Time
}

// look begins the transaction. The lock comes before the snapshot: a partition
// that is emptied between the two would look empty, and not as the snapshot
// has it.
func (r *Replay) look(ctx context.Context) (*snapshot, error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	s := &snapshot{conn: conn}
	if err := s.begin(ctx, r); err != nil {
		closeConn(conn)
		return nil, err
	}
	return s, nil
}

func (s *snapshot) begin(ctx context.Context, r *Replay) (err error) {
	if s.table, err = inspect(ctx, s.conn, r.Table, r.Columns); err != nil {
		return err
	}
	begin := "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE " + s.table.sql() + " IN ACCESS SHARE MODE"
	if _, err := s.conn.PgConn().Exec(ctx, begin).ReadAll(); err != nil {
		return databaseError("lock table "+r.Table, err)
	}
	if err := s.conn.QueryRow(ctx, "SELECT pg_current_snapshot()::text, now()").Scan(&s.text, &s.now); err != nil {
		return databaseError("take a snapshot", err)
	}
	return nil
}

// rows are the selected ones, as events.
type rows struct {
	conn     *pgx.Conn
	result   *pgconn.ResultReader
	stored   *relay.Stored
	columns  int
	seq      bool // the last value is one
	snapshot string
	now      time.Time

	values []cdc.Value
	event  record.Event
	bad    error // why the event of the last row is none
}

// open selects the rows that are still to be published.
func (r *Replay) open(ctx context.Context) (*rows, error) {
	s, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	rs, err := r.choose(ctx, s)
	if err != nil {
		closeConn(s.conn)
		return nil, err
	}
	return rs, nil
}

func (r *Replay) choose(ctx context.Context, s *snapshot) (*rows, error) {
	selection := r.Select
	selection.Resume = r.summary.Resume
	where, err := selection.where(s.table)
	if err != nil {
		return nil, err
	}
	stored, err := relay.NewStored(s.table.relation, r.Columns)
	if err != nil {
		return nil, err
	}
	query := fmt.Sprintf("SELECT %s FROM %s AS "+rowAlias+" WHERE %s ORDER BY %s", s.table.list(), s.table.sql(), where.sql(), strings.Join(s.table.order(), ", "))
	rs := &rows{
		conn: s.conn, result: s.conn.PgConn().ExecParams(ctx, query, where.values, nil, nil, nil), stored: stored,
		columns: len(s.table.relation.Columns), seq: s.table.ordered, now: s.now,
	}
	if rs.seq {
		rs.snapshot = s.text
	}
	return rs, nil
}

// next returns the event of the next row and its place, a nil event after the
// last. The event is valid until the next call; if bad is set then it is not
// complete.
func (rs *rows) next() (*record.Event, Place, error) {
	if !rs.result.NextRow() {
		if _, err := rs.result.Close(); err != nil {
			return nil, Place{}, databaseError("read the rows", err)
		}
		return nil, Place{}, nil
	}
	raw := rs.result.Values()
	rs.values = rs.values[:0]
	for _, v := range raw[:rs.columns] {
		value := cdc.Value{Format: cdc.Text, Bytes: v}
		if v == nil {
			value.Format = cdc.Null
		}
		rs.values = append(rs.values, value)
	}
	rs.event = record.Event{Replayed: true, CommitTime: rs.now}
	rs.bad = rs.stored.Event(rs.values, &rs.event)
	place := Place{ID: string(rs.event.ID), Time: rs.event.Time}
	if rs.seq {
		seq, err := strconv.ParseInt(string(raw[rs.columns]), 10, 64)
		if err != nil {
			return nil, Place{}, fmt.Errorf("read seq: %w", err)
		}
		place.Seq = seq
	}
	return &rs.event, place, nil
}

func (rs *rows) close() { closeConn(rs.conn) }

// closeConn ends a connection, in the middle of a result if need be.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// Preview is what a replay would publish.
type Preview struct {
	Rows        int64
	First, Last Place // where there are rows
}

// Preview looks what Run would publish now.
func (r *Replay) Preview(ctx context.Context) (Preview, error) {
	var p Preview
	s, err := r.look(ctx)
	if err != nil {
		return p, err
	}
	defer closeConn(s.conn)
	where, err := r.Select.where(s.table)
	if err != nil {
		return p, err
	}
	from := fmt.Sprintf("FROM %s AS "+rowAlias+" WHERE %s", s.table.sql(), where.sql())
	count, err := one(ctx, s.conn, "SELECT count(*) "+from, where.values)
	if err != nil {
		return p, err
	}
	if p.Rows, err = strconv.ParseInt(string(count[0]), 10, 64); err != nil || p.Rows == 0 {
		return p, err
	}
	if p.First, err = s.edge(ctx, from, s.table.order(), where.values); err == nil {
		p.Last, err = s.edge(ctx, from, descending(s.table.order()), where.values)
	}
	return p, err
}

// edge returns the first row in that order.
func (s *snapshot) edge(ctx context.Context, from string, order []string, values [][]byte) (Place, error) {
	row, err := one(ctx, s.conn, fmt.Sprintf("SELECT %s %s ORDER BY %s LIMIT 1", s.table.list(), from, strings.Join(order, ", ")), values)
	if err != nil {
		return Place{}, err
	}
	var p Place
	for i, c := range s.table.relation.Columns {
		switch c.Name {
		case s.table.columns.IDName():
			p.ID = string(row[i])
		case s.table.columns.CreatedAtName():
			p.Time, _ = cdc.Value{Format: cdc.Text, Bytes: row[i]}.Time(c.Type) // zero: it has none
		}
	}
	p.Seq, _ = strconv.ParseInt(string(row[len(row)-1]), 10, 64) // NULL: 0
	return p, nil
}

// one returns the only row of a query.
func one(ctx context.Context, conn *pgx.Conn, query string, values [][]byte) ([][]byte, error) {
	result := conn.PgConn().ExecParams(ctx, query, values, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, databaseError("look at the rows", result.Err)
	}
	if len(result.Rows) != 1 {
		return nil, fmt.Errorf("look at the rows: %d results, want one", len(result.Rows))
	}
	return result.Rows[0], nil
}
