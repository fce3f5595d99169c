package setup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// output can be read while setup writes.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// writer is a transaction with an id, in another database: slots wait for the
// whole cluster.
func (d *database) writer(t *testing.T) (pid string, end func()) {
	t.Helper()
	d.exec(t, "SET application_name = 'a long writer'; BEGIN; SELECT pg_current_xact_id()")
	return d.text(t, "SELECT pg_backend_pid()::text"), func() { d.exec(t, "COMMIT") }
}

func TestSlotTimeout(t *testing.T) {
	d, other := newDatabase(t), newDatabase(t)
	pid, end := other.writer(t)
	out, err := d.apply(t, setup.Options{SlotTimeout: 1500 * time.Millisecond})
	fix := wantProblem(t, err, setup.CodeSlotTimeout, "1.5s", "pid "+pid, other.name)
	if !strings.Contains(fix, "--slot-timeout") {
		t.Errorf("fix: %s", fix)
	}
	if !strings.Contains(out, "created        publication") || strings.Contains(out, "created        replication slot") {
		t.Errorf("report:\n%s", out)
	}
	if n := d.text(t, "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); n != "0" {
		t.Error("a half-made slot is left")
	}
	end()
	if again := d.mustApply(t, setup.Options{}); count(again, "already there", "") != 3 || count(again, "created", "") != 2 {
		t.Errorf("it did not go on where it stopped:\n%s", again)
	}
}

func TestSlotWaitIsReported(t *testing.T) {
	d, other := newDatabase(t), newDatabase(t)
	pid, end := other.writer(t)
	var out output
	done := make(chan error, 1)
	go func() { done <- setup.Apply(context.Background(), setup.Options{Database: d.url}, &out) }()
	eventually(t, "the writer is named", func() bool {
		return strings.Contains(out.String(), fmt.Sprintf("pid %s, role postgres, database %s, a long writer, idle in transaction, since ", pid, other.name))
	})
	// Statements that make tables give up on a lock after 3 s; this must not.
	eventually(t, "the wait outlasts the lock timeout", func() bool {
		return d.text(t, `SELECT (coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0) > 3.5)::text FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE '%pg_create_logical_replication_slot%' AND pid <> pg_backend_pid()`) == "true" || len(done) > 0
	})
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "created        replication slot") {
		t.Errorf("report:\n%s", out.String())
	}
}

// An interrupt ends the wait and leaves nothing that a second run stumbles on.
func TestSlotWaitIsInterrupted(t *testing.T) {
	d, other := newDatabase(t), newDatabase(t)
	_, end := other.writer(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out output
	done := make(chan error, 1)
	go func() { done <- setup.Apply(ctx, setup.Options{Database: d.url}, &out) }()
	eventually(t, "the wait", func() bool { return strings.Contains(out.String(), "waiting: ") })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
	end()
	eventually(t, "the slot is given up", func() bool {
		return d.text(t, "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()") == "0"
	})
	d.mustApply(t, setup.Options{})
}
