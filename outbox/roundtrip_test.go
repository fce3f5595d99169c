package outbox_test

import (
	"context"
	"database/sql"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// tripCounter counts the times that a connection waited for the server.
type tripCounter struct {
	net.Conn
	mu    sync.Mutex
	wrote bool
	trips int
}

func (c *tripCounter) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.wrote = true
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *tripCounter) Read(b []byte) (int, error) {
	c.mu.Lock()
	if c.wrote {
		c.trips++
	}
	c.wrote = false
	c.mu.Unlock()
	return c.Conn.Read(b)
}

// during returns the round trips that f makes.
func (c *tripCounter) during(f func()) int {
	c.mu.Lock()
	before := c.trips
	c.mu.Unlock()
	f()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trips - before
}

// countingConfig returns a configuration whose one connection is counted by
// the counter, once it is made.
func countingConfig(t *testing.T) (*pgx.ConnConfig, *tripCounter) {
	t.Helper()
	config, err := pgx.ParseConfig(devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	counter := &tripCounter{}
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		counter.Conn = conn
		return counter, err
	}
	return config, counter
}

func severalBatches() map[string][]outbox.Event {
	large := make([]outbox.Event, 5)
	for i := range large {
		large[i] = order(strings.Repeat("x", outbox.MaxMessage/2))
	}
	hundred := make([]outbox.Event, 100)
	for i := range hundred {
		hundred[i] = order(i)
	}
	return map[string][]outbox.Event{"1 event": hundred[:1], "100 events": hundred, "5 large events": large}
}

func TestOneRoundTripFromTheFirstCallOn(t *testing.T) {
	config, counter := countingConfig(t)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	mustExec(t, conn, createOutbox)
	tx := begin(t, conn)
	for name, events := range severalBatches() {
		for way, f := range map[string]func(context.Context, pgx.Tx, ...outbox.Event) ([]outbox.ID, error){
			"Write": outbox.Write, "Emit": outbox.Emit,
		} {
			trips := counter.during(func() {
				if _, err := f(t.Context(), tx, events...); err != nil {
					t.Fatal(err)
				}
			})
			if trips != 1 {
				t.Errorf("%s of %s took %d round trips", way, name, trips)
			}
		}
	}
	// PgBouncer in transaction mode may give the next transaction to another
	// server connection, which would not know a statement prepared on this one.
	var prepared int
	err = tx.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements", pgx.QueryExecModeExec).Scan(&prepared)
	if err != nil || prepared != 0 {
		t.Errorf("%d prepared statements are left on the server (%v)", prepared, err)
	}
}

func TestSQLTakesOneRoundTripOncePrepared(t *testing.T) {
	config, counter := countingConfig(t)
	db := sql.OpenDB(stdlib.GetConnector(*config))
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(createOutbox); err != nil {
		t.Fatal(err)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for name, events := range severalBatches() {
		for way, f := range map[string]func(context.Context, *sql.Tx, ...outbox.Event) ([]outbox.ID, error){
			"WriteSQL": outbox.WriteSQL, "EmitSQL": outbox.EmitSQL,
		} {
			once := func() {
				if _, err := f(t.Context(), tx, events...); err != nil {
					t.Fatal(err)
				}
			}
			once()
			if trips := counter.during(once); trips != 1 {
				t.Errorf("%s of %s took %d round trips", way, name, trips)
			}
		}
	}
}
