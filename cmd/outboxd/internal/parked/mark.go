package parked

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
)

// pollInterval is how often Wait looks.
const pollInterval = 200 * time.Millisecond

// Marked is what Mark did.
type Marked struct {
	// Positions of the rows that were marked.
	Positions []string
	// Behind counts the events that have no mark and are parked behind those.
	Behind int
}

// Mark says what is to become of the events of a selection: Retry or Discard.
// It changes nothing of rows that are marked so already, and it is an error when
// that are all.
//
// With ids, Retry is an error when an earlier event of the same domain stays
// parked. What is parked only behind a retried event follows it by itself.
// Without ids, Retry leaves alone what is marked to be discarded: what is behind
// an event is retried as soon as that one is given up, and must not bring it back.
func (d *Desk) Mark(ctx context.Context, sel Selection, as State, note string) (Marked, error) {
	m, err := d.mark(ctx, sel, as, note)
	if err != nil {
		return Marked{}, named("mark parked events", err)
	}
	return m, nil
}

func (d *Desk) mark(ctx context.Context, sel Selection, as State, note string) (m Marked, err error) {
	if err := d.checkSelection(ctx, sel, as); err != nil {
		return m, err
	}
	where, args := d.where(sel)
	if as == Retry {
		where += " AND p.payload_kind <> 'raw'"
		if sel.IDs == nil {
			where += " AND p.state <> 'discard'"
		}
	}
	n := len(args)
	where += fmt.Sprintf(" AND p.state NOT IN ('discarded', $%d)", n+1)
	rows, err := d.conn.Query(ctx, `WITH `+locked(where, "")+fmt.Sprintf(`
		UPDATE outboxd.parked p SET state = $%d, note = $%d, marked_at = now(),
		marked_by = session_user || coalesce(' from ' || host(inet_client_addr()), '') FROM locked
		WHERE p.pipeline = $1 AND p.position = locked.position RETURNING p.position`, n+1, n+2), append(args, string(as), note)...)
	if err != nil {
		return m, err
	}
	if m.Positions, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return m, err
	}
	if len(m.Positions) == 0 {
		return m, d.unmarked(ctx, sel, as)
	}
	err = d.conn.QueryRow(ctx, `SELECT count(*) FROM outboxd.parked p WHERE pipeline = $1 AND state = 'parked' AND domain IN (
		SELECT domain FROM outboxd.parked WHERE pipeline = $1 AND position = ANY ($2::text[]))`, d.pipeline, m.Positions).Scan(&m.Behind)
	return m, err
}

// checkSelection finds what a selection cannot mean.
func (d *Desk) checkSelection(ctx context.Context, sel Selection, as State) error {
	if sel.Key != nil && sel.Destination == "" {
		return d.checkKey(ctx, *sel.Key)
	}
	if sel.IDs == nil {
		return nil
	}
	where, args := d.where(sel)
	rows, err := d.conn.Query(ctx, `SELECT position, id, payload_kind = 'raw', (
			SELECT coalesce(e.id, convert_to(e.position, 'UTF8')) FROM outboxd.parked e WHERE e.pipeline = p.pipeline AND e.domain = p.domain AND e.position < p.position
			AND e.state = 'parked' AND NOT (e.id = ANY ($2::bytea[]) OR e.position = ANY ($3::text[])) ORDER BY e.position LIMIT 1)
		FROM outboxd.parked p WHERE `+where+` AND state <> 'discarded'`, args...)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	var position string
	var id, head []byte
	var raw bool
	var problem error
	_, err = pgx.ForEachRow(rows, []any{&position, &id, &raw, &head}, func() error {
		found[position] = true
		found[string(id)] = true
		if as == Retry && problem == nil {
			problem = d.refuse(cmp.Or(string(id), position), raw, string(head))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range sel.IDs {
		if !found[id] {
			return d.noMatch(Selection{IDs: []string{id}})
		}
	}
	return problem
}

// refuse says why the event of that name cannot be retried.
func (d *Desk) refuse(name string, raw bool, head string) error {
	switch {
	case raw:
		return &cdc.Error{Code: CodeNoMatch, Detail: fmt.Sprintf("event %s could not be decoded: there is nothing to publish", name), Fix: fmt.Sprintf("outboxd parked discard --pipeline %s --note … %s", d.pipeline, name)}
	case head != "":
		return &cdc.Error{Code: CodeNotHead, Detail: fmt.Sprintf("event %s waits behind event %s of the same key", name, head),
			Fix: fmt.Sprintf("retry or discard %s first, or retry the whole key with --key", head)}
	}
	return nil
}

// checkKey finds a key that is parked at several destinations. Routing keys of
// one exchange are one: the domain tells.
func (d *Desk) checkKey(ctx context.Context, key string) error {
	rows, err := d.conn.Query(ctx, `SELECT max(destination) FROM outboxd.parked
		WHERE pipeline = $1 AND aggregateid = $2::bytea AND state <> 'discarded'
		GROUP BY coalesce(domain, convert_to(destination, 'UTF8')) ORDER BY 1`, d.pipeline, []byte(key))
	if err != nil {
		return err
	}
	destinations, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(destinations) > 1 {
		return &cdc.Error{Code: CodeAmbiguous, Detail: fmt.Sprintf("aggregate id %q is parked at several destinations: %q", key, destinations), Fix: "name one with --destination, or the events by id"}
	}
	return err
}

// unmarked says why no row was marked.
func (d *Desk) unmarked(ctx context.Context, sel Selection, as State) error {
	where, args := d.where(sel)
	var marked, discarded int
	err := d.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FILTER (WHERE state = '%s'), count(*) FILTER (WHERE state = 'discard') FROM outboxd.parked p WHERE %s", as, where), args...).Scan(&marked, &discarded)
	switch {
	case err != nil:
		return err
	case marked > 0:
		return &cdc.Error{Code: CodeNoMatch, Detail: fmt.Sprintf("%d events are marked %s already", marked, as),
			Fix: "the relay of the pipeline works marks off: look whether it runs"}
	case discarded > 0:
		return &cdc.Error{Code: CodeNoMatch, Detail: fmt.Sprintf("%d events are marked discard, and nothing else is parked", discarded),
			Fix: "to take that back, retry them by id"}
	}
	return d.noMatch(sel)
}

// Wait returns once the leader has dealt with the rows at positions, and how
// many of them it could not publish, because of what they are or of what is
// before them.
func (d *Desk) Wait(ctx context.Context, positions []string) (refused int, err error) {
	t := time.NewTicker(pollInterval)
	defer t.Stop()
	for {
		var open int
		err := d.conn.QueryRow(ctx, `SELECT count(*) FILTER (WHERE state <> 'parked' AND NOT stuck), count(*) FILTER (WHERE state = 'parked' OR stuck)
			FROM (SELECT state, state = 'retry' AND EXISTS (SELECT FROM outboxd.parked e WHERE e.pipeline = p.pipeline AND e.domain = p.domain
				AND e.position < p.position AND e.state = 'parked') AS stuck
				FROM outboxd.parked p WHERE pipeline = $1 AND position = ANY ($2::text[]) AND state <> 'discarded') marked`, d.pipeline, positions).Scan(&open, &refused)
		if err != nil {
			return 0, named("look what became of the events", err)
		}
		if open == 0 {
			return refused, nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
