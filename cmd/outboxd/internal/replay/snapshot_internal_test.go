package replay

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// The rows are those of the snapshot that a Resume names, not of a moment later,
// and nobody empties the table in between: a snapshot does not bring back what
// was truncated.
func TestRowsAreThoseOfTheSnapshot(t *testing.T) {
	r := &Replay{Database: devtest.Database(t), Table: "public.outbox", Select: Selection{From: "0"}}
	conn, err := pgx.Connect(t.Context(), r.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'a', 'b', 'c')"
	for _, sql := range []string{`CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json,
		seq bigint GENERATED ALWAYS AS IDENTITY, xid xid8 DEFAULT pg_current_xact_id())`, insert} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	s, err := r.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var locked *pgconn.PgError
	_, err = conn.PgConn().Exec(t.Context(), "SET lock_timeout = '100ms'; TRUNCATE outbox").ReadAll()
	if !errors.As(err, &locked) || locked.Code != "55P03" {
		t.Errorf("TRUNCATE while the rows are chosen: %v, want a lock timeout", err)
	}
	if _, err := conn.Exec(t.Context(), insert); err != nil {
		t.Fatal(err)
	}
	rows, err := r.choose(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.close()
	n := 0
	for ; ; n++ {
		ev, _, err := rows.next()
		if err != nil {
			t.Fatal(err)
		}
		if ev == nil {
			break
		}
	}
	if n != 1 {
		t.Errorf("%d rows, want the one that was there before", n)
	}
}

// Who stops while it publishes what was committed late repeats that, not all
// that lies before the place where it had been.
func TestResumeAfter(t *testing.T) {
	at := Resume{1000, "5:5:"}
	for last, want := range map[int64]Resume{10: at, 999: at, 1000: {1001, "9:9:"}, 1200: {1201, "9:9:"}} {
		if got := at.after(last, "9:9:"); got != want {
			t.Errorf("after %d: %s, want %s", last, got, want)
		}
	}
	if got := (Resume{}).after(1, "9:9:"); got != (Resume{2, "9:9:"}) {
		t.Errorf("from the beginning: %s", got)
	}
}
