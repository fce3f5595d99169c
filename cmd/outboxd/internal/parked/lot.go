package parked

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
)

const (
	// writeTimeout bounds a statement, which may mark everything that is parked,
	// beside the time that its events take on the slowest line, in bytes a second.
	writeTimeout = 60 * time.Second
	slowestLine  = 8 << 10

	// Bounds of one look for marked rows: the rows that are read at once, their
	// bytes (one larger row passes alone), and the rows discarded at once.
	maxRetries     = 500
	maxRetryBytes  = 4 << 20
	maxDiscards    = 1000
	maxDetailBytes = 1000

	// keptDiscards is how many discarded rows of a pipeline stay for the record.
	keptDiscards = 100_000
)

// binary is for queries that move payloads: as text, which is the default of the
// connection, they would be copied more often, and twice as long. It prepares no
// statement with a name either.
const binary = pgx.QueryExecModeCacheDescribe

// Store says whose lots to open.
type Store struct {
	// Database is a connection string or URL as pgx takes it.
	Database string
	Pipeline string
	// Holder is how this process signs the witness.
	Holder string
}

// Contents is what is parked when a lot is opened.
type Contents struct {
	Events int
	Bytes  int64
	// Domains are those that have a parked event, with the position of the first.
	Domains map[Domain]cdc.Position
	// Repeated are the ids, by position, of the events that were parked and that
	// the witness is not past: the server may send them again. Of discarded ones
	// there are some when the configuration was changed: a transaction that was
	// acked in part is published whole then.
	Repeated map[cdc.Position]string
	// MarkedAt is when the last mark for a retry was made, zero if there is none.
	MarkedAt time.Time
}

// Lot is the connection of the pipeline's leader to its parked events. Its
// methods are for one goroutine at a time. Their errors are *cdc.Error; after
// any of them the lot is of no use.
type Lot struct {
	conn     *pgx.Conn
	pipeline string
	holder   string
}

// Open connects and reads what is parked. The pipeline's witness must be held
// by Store.Holder already, or a predecessor could still add to it.
func (s Store) Open(ctx context.Context) (*Lot, *Contents, error) {
	conn, err := cdc.Connect(ctx, s.Database, "outboxd "+s.Pipeline+" parked")
	if err != nil {
		return nil, nil, err
	}
	l := &Lot{conn: conn, pipeline: s.Pipeline, holder: s.Holder}
	err = l.follow(ctx)
	var contents *Contents
	if err == nil {
		contents, err = l.load(ctx)
	}
	if err != nil {
		l.Close()
		return nil, nil, named("read what is parked", err)
	}
	return l, contents, nil
}

// Close ends the connection, in good order if that takes no time.
func (l *Lot) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.conn.Close(ctx)
}

// published is the text of the position up to which everything is published,
// for a row w of the witness. Positions of an earlier epoch are before it.
const published = `(lpad(to_hex(w.epoch), 4, '0') || '.' || greatest(
	lpad(to_hex((w.acked_lsn - '0/0'::pg_lsn)::bigint), 16, '0') || '.00000000',
	lpad(to_hex((w.acked_commit - '0/0'::pg_lsn)::bigint), 16, '0') || '.' || lpad(to_hex(w.acked_events), 8, '0'))) COLLATE "C"`

// follow gives what the server may send again after a failover the position with
// which it comes then: the epoch is another, the place in the WAL the same. So it
// is known to be parked, and stands where it belongs among what comes with it.
func (l *Lot) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	open := `p.pipeline = $1 AND p.state <> 'discarded' AND p.system_id = (SELECT system_id FROM leader)
		AND left(p.position, 5) < (SELECT left(published, 5) FROM leader) AND substr(p.position, 6) >= (SELECT substr(published, 6) FROM leader)
		AND NOT EXISTS (SELECT FROM outboxd.parked o WHERE o.pipeline = p.pipeline AND o.position > p.position AND substr(o.position, 6) = substr(p.position, 6))`
	var leads bool
	err := patiently(ctx, func() error {
		return l.conn.QueryRow(ctx, `WITH `+fence+`, `+locked(open, "")+`, moved AS (
			UPDATE outboxd.parked p SET position = left(leader.published, 5) || substr(p.position, 6) FROM leader, locked
			WHERE p.pipeline = $1 AND p.position = locked.position)
			SELECT EXISTS (SELECT FROM leader)`, l.pipeline, l.holder).Scan(&leads)
	})
	if err == nil && !leads {
		return l.lostLead()
	}
	return err
}

func (l *Lot) load(ctx context.Context) (*Contents, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	c := &Contents{Domains: map[Domain]cdc.Position{}, Repeated: map[cdc.Position]string{}}
	markedAt := &c.MarkedAt
	err := l.conn.QueryRow(ctx, `SELECT count(*), coalesce(sum(size), 0)::bigint, max(marked_at) FILTER (WHERE state = 'retry') FROM outboxd.parked
		WHERE pipeline = $1 AND state <> 'discarded'`, l.pipeline).Scan(&c.Events, &c.Bytes, &markedAt)
	if err != nil {
		return nil, err
	}
	if markedAt != nil {
		c.MarkedAt = *markedAt
	}
	var domain, id []byte
	var position string
	err = l.each(ctx, []any{&domain, &position}, func() (err error) {
		c.Domains[Domain(domain)], err = cdc.ParsePosition(position)
		return err
	}, `SELECT domain, min(position) FROM outboxd.parked WHERE pipeline = $1 AND state <> 'discarded' AND domain IS NOT NULL GROUP BY domain`, l.pipeline)
	if err != nil {
		return nil, err
	}
	err = l.each(ctx, []any{&position, &id}, func() error {
		p, err := cdc.ParsePosition(position)
		c.Repeated[p] = string(id)
		return err
	}, `SELECT position, id FROM outboxd.parked p JOIN outboxd.witness w USING (pipeline)
		WHERE p.pipeline = $1 AND p.position >= `+published, l.pipeline)
	return c, err
}

// each scans every row of a query into into.
func (l *Lot) each(ctx context.Context, into []any, f func() error, query string, args ...any) error {
	rows, err := l.conn.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, f)
	return err
}

// fence is the CTE that every write joins: it has a row, with the position up
// to which everything is published and the cluster that it is one of, only while
// the pipeline's witness is held by $2.
const fence = `leader AS MATERIALIZED (
	SELECT ` + published + ` AS published, w.system_id FROM outboxd.witness w WHERE w.pipeline = $1 AND w.holder = $2 FOR SHARE)`

// locked is the CTE that every statement joins which changes rows p: it locks
// those of the condition in the order of their positions. Without one order for
// all, a statement that marks many rows and one of the leader's could wait for
// each other, and the server would end one of them. limit is a clause, or empty.
func locked(where, limit string) string {
	return `locked AS MATERIALIZED (SELECT p.position FROM outboxd.parked p WHERE ` + where + ` ORDER BY p.position ` + limit + ` FOR UPDATE)`
}

// moving bounds a statement that moves events of these sizes.
func moving(ctx context.Context, sizes []int64) (context.Context, context.CancelFunc) {
	timeout := writeTimeout
	for _, n := range sizes {
		timeout += time.Duration(n) * time.Second / slowestLine
	}
	return context.WithTimeout(ctx, timeout)
}

// patiently runs a statement again while others hold a row that it locks: a mark
// of everything takes seconds, and so does a commit of the witness that waits for
// a standby. With each attempt, which the connection's lock_timeout ends, the row
// of the witness is free for a moment.
func patiently(ctx context.Context, statement func() error) error {
	for {
		err := statement()
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "55P03" || ctx.Err() != nil {
			return err
		}
	}
}

// Park makes rows of events and returns once they are durable. What is parked
// behind an event that is marked for a retry is marked so as well.
func (l *Lot) Park(ctx context.Context, events []Event) error {
	c := l.columns(events)
	ctx, cancel := moving(ctx, c.size)
	defer cancel()
	var leads bool
	var written int
	err := patiently(ctx, func() error {
		return l.conn.QueryRow(ctx, `WITH `+fence+`, written AS (
			INSERT INTO outboxd.parked (pipeline, position, domain, destination, id, aggregatetype, aggregateid, type, payload, headers,
				payload_kind, created_at, commit_time, size, reason, detail, behind, system_id, state)
			SELECT $1, e.*, leader.system_id, CASE WHEN e.behind THEN coalesce((
				SELECT nullif(p.state, 'discard') FROM outboxd.parked p WHERE p.pipeline = $1 AND p.domain = e.domain AND p.state <> 'discarded'
				ORDER BY p.position DESC LIMIT 1), 'parked') ELSE 'parked' END
			FROM leader CROSS JOIN unnest($3::text[], $4::bytea[], $5::text[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[],
				$10::bytea[], $11::bytea[], $12::text[], $13::timestamptz[], $14::timestamptz[], $15::bigint[], $16::text[], $17::text[], $18::boolean[])
				AS e (position, domain, destination, id, aggregatetype, aggregateid, type, payload, headers, payload_kind, created_at, commit_time, size, reason, detail, behind)
			ON CONFLICT DO NOTHING RETURNING 1)
			SELECT EXISTS (SELECT FROM leader), (SELECT count(*) FROM written)`, binary,
			l.pipeline, l.holder, c.position, c.domain, c.destination, c.id, c.aggregateType, c.aggregateID, c.kind, c.payload, c.headers,
			c.payloadKind, c.created, c.commit, c.size, c.reason, c.detail, c.behind).Scan(&leads, &written)
	})
	switch {
	case err != nil:
		return named("park events", err)
	case !leads:
		return l.lostLead()
	case written < len(events):
		// Open would have known them, if they were the same events.
		return &cdc.Error{Code: cdc.CodeUnreachable, Detail: fmt.Sprintf("park events: %d of %d positions are taken", len(events)-written, len(events)),
			Fix: "if this comes again: look at the rows of outboxd.parked from position " + c.position[0]}
	}
	return nil
}

func (l *Lot) lostLead() error {
	return &cdc.Error{Code: cdc.CodeLostLead, Detail: fmt.Sprintf("the witness of pipeline %s is held by someone else: another relay has taken over", l.pipeline)}
}

// columns are events by column, as unnest takes them.
type columns struct {
	position, destination, payloadKind, reason, detail             []string
	domain, id, aggregateType, aggregateID, kind, payload, headers [][]byte
	created, commit                                                []*time.Time
	size                                                           []int64
	behind                                                         []bool
}

func (l *Lot) columns(events []Event) *columns {
	c := &columns{}
	for i := range events {
		e := &events[i]
		c.position = append(c.position, e.Position.String())
		c.domain = append(c.domain, domainColumn(e.Domain))
		c.destination = append(c.destination, l.clean(e.Destination))
		c.id = append(c.id, e.ID)
		c.aggregateType = append(c.aggregateType, e.AggregateType)
		c.aggregateID = append(c.aggregateID, e.AggregateID)
		c.kind = append(c.kind, e.Type)
		c.payload = append(c.payload, e.Payload)
		c.headers = append(c.headers, e.Headers)
		c.payloadKind = append(c.payloadKind, e.kind())
		c.created = append(c.created, timeColumn(e.Time))
		c.commit = append(c.commit, &e.CommitTime)
		c.size = append(c.size, int64(e.Size()))
		c.reason = append(c.reason, l.clean(e.Reason))
		c.detail = append(c.detail, l.clean(e.Detail))
		c.behind = append(c.behind, e.Reason == Behind)
	}
	return c
}

func domainColumn(d Domain) []byte {
	if d == (Domain{}) {
		return nil
	}
	return d[:]
}

func timeColumn(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// clean makes of s, which may hold bytes of an event, a text that the database
// takes. One whose encoding is not UTF-8 may lack any character but those of ASCII.
func (l *Lot) clean(s string) string {
	if len(s) > maxDetailBytes {
		s = s[:maxDetailBytes]
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	for _, of := range []string{"server_encoding", "client_encoding"} {
		if l.conn.PgConn().ParameterStatus(of) != "UTF8" {
			return ascii(s)
		}
	}
	return s
}

// ascii writes the other characters of s as Go does: \u65e5.
func ascii(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}
