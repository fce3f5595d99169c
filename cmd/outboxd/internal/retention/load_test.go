package retention_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv"
)

// TestRotateUnderLoad: a bucket is emptied while services write, one of them in
// a transaction that stays open, and somebody reads the whole table on a
// synchronous standby. No writer waits for it, no row but the expired goes, and
// the standby follows: its reader is in the way there for as long as that server
// allows, and no longer.
func TestRotateUnderLoad(t *testing.T) {
	primary, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = primary.Close() })
	url := primary.URL("postgres", "postgres")
	if err := setup.Apply(t.Context(), setup.Options{Database: url}, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	standby, err := devenv.StartStandby(t.Context(), primary, devenv.StandbyOptions{Synchronous: true, Settings: map[string]string{"max_standby_streaming_delay": "1s"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Close() })
	conn, err := cdc.Connect(t.Context(), url, "retention")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	o := &outbox{conn, url, retention.NewRotator("public.outbox")}
	o.fill(t)

	open, there := dial(t, url), dial(t, standby.URL("postgres", "postgres"))
	exec(t, open, "BEGIN; "+publish)
	written, stop := writers(t, url)
	expired := o.rotate(t, retention.Marked).Partition
	o.relay(t)
	exec(t, there, "BEGIN; SELECT count(*) FROM outbox")
	before := written.Load()
	o.rotate(t, retention.Truncated)
	for deadline := time.Now().Add(30 * time.Second); written.Load() < before+50; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the writers stand still")
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) {
		var pgErr *pgconn.PgError
		if err := there.Ping(t.Context()); errors.As(err, &pgErr) && pgErr.Code == "40001" { // conflict with recovery
			break
		} else if err != nil || time.Now().After(deadline) {
			t.Fatalf("the reader on the standby: %v", err)
		}
	}
	exec(t, open, "COMMIT")
	stop()
	if got, want := o.text(t, "SELECT count(*)::text FROM outbox WHERE aggregateid = 'load'"), fmt.Sprint(written.Load()+1); got != want {
		t.Errorf("%s of %s rows that were written meanwhile are there", got, want)
	}
	follower := dial(t, standby.URL("postgres", "postgres"))
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) {
		var left int
		if err := follower.QueryRow(t.Context(), "SELECT count(*) FROM "+expired).Scan(&left); err != nil {
			t.Fatal(err)
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d expired rows are still on the standby", left)
		}
	}
}

const publish = "SELECT outboxd.publish('order', 'load', 'placed', '{}')"

// writers publish, each transaction with one event, until stop is called. None
// may wait a second for a lock.
func writers(t *testing.T, url string) (written *atomic.Int64, stop func()) {
	t.Helper()
	written = new(atomic.Int64)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.Background())
			_, err = conn.Exec(t.Context(), "SET lock_timeout = '1s'")
			for err == nil && ctx.Err() == nil {
				if _, err = conn.Exec(t.Context(), publish); err == nil {
					written.Add(1)
				}
			}
			if err != nil {
				t.Errorf("a writer: %v", err)
			}
		})
	}
	return written, func() { cancel(); all.Wait() }
}
