package parked

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// Marks are what others want of the leader.
type Marks struct {
	// Discarded is what has just been discarded.
	Discarded Change
	// Retries are events to publish, in this order.
	Retries []Event
	// More: there may be more of either.
	More bool
}

// Change is what is not parked any more.
type Change struct {
	Events int
	Bytes  int64
	// Freed are the domains of those events that have no other.
	Freed []Domain
}

// Marked discards the rows that are marked for it, and returns those that are
// to be published, as many as are taken at once, with their reasons, but none
// for a target in aside, and none that is behind one of those. Everything up to
// passed has been handed over in this session. Nothing may be parked between
// this and the next Settle, or a domain could be freed that has a row.
func (l *Lot) Marked(ctx context.Context, passed cdc.Position, aside []string) (m Marks, err error) {
	positions, sizes, err := l.marked(ctx, &m, passed, aside)
	if err == nil && len(positions) > 0 {
		m.Retries, err = l.retries(ctx, positions, sizes)
	}
	if err != nil {
		return Marks{}, named("look for marked events", err)
	}
	m.More = m.Discarded.Events == maxDiscards || len(m.Retries) > 0
	return m, nil
}

// marked discards what is marked for it, and finds what is to be published.
func (l *Lot) marked(ctx context.Context, m *Marks, passed cdc.Position, aside []string) (positions []string, sizes []int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var some bool
	err = l.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outboxd.parked WHERE pipeline = $1 AND state IN ('retry', 'discard'))`, l.pipeline).Scan(&some)
	if err != nil || !some {
		return nil, nil, err
	}
	ripe := `p.pipeline = $1 AND p.state = 'discard' AND p.position < (SELECT published FROM leader)`
	m.Discarded, err = l.change(ctx, locked(ripe, "LIMIT $3"), `
		UPDATE outboxd.parked p SET state = 'discarded', payload = NULL, headers = NULL FROM locked
		WHERE p.pipeline = $1 AND p.position = locked.position`, maxDiscards)
	if err == nil && m.Discarded.Events > 0 {
		err = l.forget(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	var position string
	var size int64
	err = l.each(ctx, []any{&position, &size}, func() error {
		positions, sizes = append(positions, position), append(sizes, size)
		return nil
	}, `SELECT position, size FROM (
			SELECT position, size, sum(size) OVER (ORDER BY position) - size AS before FROM outboxd.parked p JOIN outboxd.witness w USING (pipeline)
			WHERE p.pipeline = $1 AND p.state = 'retry' AND (p.position < `+published+` OR p.behind AND p.position <= $4)
			AND `+target("p")+` <> ALL ($5::text[]) AND NOT EXISTS (
				SELECT FROM outboxd.parked e WHERE e.pipeline = p.pipeline AND e.domain = p.domain AND e.position < p.position
				AND (e.state IN ('parked', 'discard') OR NOT e.behind AND e.position >= `+published+` OR `+target("e")+` = ANY ($5::text[])))
			ORDER BY position LIMIT $2) head
		WHERE before < $3 ORDER BY position`, l.pipeline, maxRetries, maxRetryBytes, passed.String(), append([]string{}, aside...)) // not NULL
	return positions, sizes, err
}

// retries returns the events at positions. A mark that one got meanwhile comes too
// late: what is behind it must not be published before it.
func (l *Lot) retries(ctx context.Context, positions []string, sizes []int64) ([]Event, error) {
	ctx, cancel := moving(ctx, sizes)
	defer cancel()
	rows, err := l.conn.Query(ctx, `
		SELECT position, domain, destination, id, aggregatetype, aggregateid, type, payload, headers, payload_kind, created_at, commit_time, reason, marked_at
		FROM outboxd.parked WHERE pipeline = $1 AND position = ANY ($2::text[]) ORDER BY position`, binary, l.pipeline, positions)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanEvent)
}

// target is Event.Target of a row.
func target(row string) string {
	return `coalesce(nullif(` + row + `.destination, ''), ` + row + `.position)`
}

// forget deletes the discarded rows that were marked first, when there are more
// than are kept.
func (l *Lot) forget(ctx context.Context) error {
	_, err := l.conn.Exec(ctx, `WITH `+fence+`
		DELETE FROM outboxd.parked p USING leader WHERE p.pipeline = $1 AND p.state = 'discarded' AND p.position IN (
			SELECT position FROM outboxd.parked WHERE pipeline = $1 AND state = 'discarded' ORDER BY marked_at DESC, position DESC OFFSET $3)`,
		l.pipeline, l.holder, keptDiscards)
	return err
}

func scanEvent(row pgx.CollectableRow) (Event, error) {
	var e Event
	var position, kind string
	var domain []byte
	created, marked := &e.Time, &e.MarkedAt
	err := row.Scan(&position, &domain, &e.Destination, &e.ID, &e.AggregateType, &e.AggregateID, &e.Type, &e.Payload, &e.Headers, &kind, &created, &e.CommitTime, &e.Reason, &marked)
	if err != nil {
		return e, err
	}
	if created != nil {
		e.Time = *created
	}
	if marked != nil {
		e.MarkedAt = *marked
	}
	if domain != nil {
		e.Domain = Domain(domain)
	}
	e.setKind(kind)
	e.Position, err = cdc.ParsePosition(position)
	return e, err
}

// Refusal says that an event cannot be published this time either.
type Refusal struct {
	Position       cdc.Position
	Reason, Detail string
}

// Settle deletes the rows of events that are published, and takes the mark from
// those that were refused. What is parked only behind a published one gets its
// mark, up to the next that has a reason of its own.
func (l *Lot) Settle(ctx context.Context, published []cdc.Position, refused []Refusal) (Change, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	gone := make([]string, len(published))
	for i, p := range published {
		gone[i] = p.String()
	}
	positions, reasons, details := make([]string, len(refused)), make([]string, len(refused)), make([]string, len(refused))
	for i, r := range refused {
		positions[i], reasons[i], details[i] = r.Position.String(), l.clean(r.Reason), l.clean(r.Detail)
	}
	change, err := l.change(ctx, heirs+", "+locked(settled, "")+", "+inherited, `
		DELETE FROM outboxd.parked p USING locked WHERE p.pipeline = $1 AND p.position = ANY ($3::text[]) AND p.position = locked.position`, gone, maxRetries)
	if err == nil && len(refused) > 0 {
		err = l.refuse(ctx, positions, reasons, details)
	}
	if err != nil {
		return Change{}, named("settle released events", err)
	}
	return change, nil
}

func (l *Lot) refuse(ctx context.Context, positions, reasons, details []string) error {
	var leads bool
	marked := `EXISTS (SELECT FROM leader) AND p.pipeline = $1 AND p.position = ANY ($3::text[]) AND p.state = 'retry'`
	err := patiently(ctx, func() error {
		return l.conn.QueryRow(ctx, `WITH `+fence+`, `+locked(marked, "")+`, refused AS (
			UPDATE outboxd.parked p SET state = 'parked', attempts = attempts + 1, behind = false, reason = r.reason, detail = r.detail
			FROM locked JOIN unnest($3::text[], $4::text[], $5::text[]) r (position, reason, detail) USING (position)
			WHERE p.pipeline = $1 AND p.position = locked.position)
			SELECT EXISTS (SELECT FROM leader)`, l.pipeline, l.holder, positions, reasons, details).Scan(&leads)
	})
	if err == nil && !leads {
		return l.lostLead()
	}
	return err
}

// heirs is the CTE with what a Settle changes: the published rows, $3, and of each
// of their domains the next that are parked only behind them, $4 at most;
// inherited marks those. A key may have 100,000 events: they inherit page by page.
const (
	heirs = `heirs AS MATERIALIZED (
		SELECT unnest($3::text[]) AS position UNION ALL
		SELECT heir.position FROM (SELECT DISTINCT domain FROM outboxd.parked WHERE pipeline = $1 AND position = ANY ($3::text[])) d
		CROSS JOIN LATERAL (SELECT min(position) AS position FROM outboxd.parked e
			WHERE e.pipeline = $1 AND e.domain = d.domain AND e.state IN ('parked', 'discard') AND NOT e.behind) stays
		CROSS JOIN LATERAL (SELECT b.position FROM outboxd.parked b
			WHERE b.pipeline = $1 AND b.domain = d.domain AND b.behind AND b.state = 'parked' AND (stays.position IS NULL OR b.position < stays.position)
			ORDER BY b.position LIMIT $4) heir)`
	settled   = `EXISTS (SELECT FROM leader) AND p.pipeline = $1 AND p.position IN (SELECT position FROM heirs)`
	inherited = `inherited AS (
		UPDATE outboxd.parked p SET state = 'retry', marked_at = now(), marked_by = '' FROM locked
		WHERE p.pipeline = $1 AND p.position = locked.position AND p.behind AND p.state = 'parked')`
)

// change runs a fenced statement that takes rows p out of the lot, of those that
// the CTE locked before it has locked, and says what it took. $1 is the pipeline,
// $2 the holder, args are what follows.
func (l *Lot) change(ctx context.Context, before, statement string, args ...any) (c Change, err error) {
	leads := false
	domains := map[Domain]bool{}
	var domain []byte
	var size *int64
	note := func() error {
		if size == nil {
			return nil
		}
		c.Events++
		c.Bytes += *size
		if domain != nil {
			domains[Domain(domain)] = true
		}
		return nil
	}
	err = patiently(ctx, func() error {
		return l.each(ctx, []any{&leads, &domain, &size}, note, `WITH `+fence+`, `+before+`, changed AS (`+statement+` RETURNING p.domain, p.size)
			SELECT EXISTS (SELECT FROM leader), changed.domain, changed.size FROM (SELECT) always LEFT JOIN changed ON true`,
			append([]any{l.pipeline, l.holder}, args...)...)
	})
	switch {
	case err != nil:
		return c, err
	case !leads:
		return c, l.lostLead()
	}
	c.Freed, err = l.freed(ctx, domains)
	return c, err
}

// freed returns those of domains that have no row left.
func (l *Lot) freed(ctx context.Context, domains map[Domain]bool) ([]Domain, error) {
	if len(domains) == 0 {
		return nil, nil
	}
	list := make([][]byte, 0, len(domains))
	for d := range domains {
		list = append(list, d[:])
	}
	var domain []byte
	err := l.each(ctx, []any{&domain}, func() error {
		delete(domains, Domain(domain))
		return nil
	}, `SELECT taken FROM unnest($2::bytea[]) taken WHERE EXISTS (
		SELECT FROM outboxd.parked p WHERE p.pipeline = $1 AND p.domain = taken AND p.state <> 'discarded')`, l.pipeline, list)
	free := make([]Domain, 0, len(domains))
	for d := range domains {
		free = append(free, d)
	}
	return free, err
}

// named gives err a code, unless it has one.
func named(doing string, err error) error {
	var e *cdc.Error
	if errors.As(err, &e) {
		return e
	}
	return queryError(doing, err)
}
