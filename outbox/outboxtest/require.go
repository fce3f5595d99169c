package outboxtest

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/outbox"
)

// NullPayload as Event.Payload asks for a NULL payload.
const NullPayload = nullPayload(0)

type nullPayload int

// RequireWritten stops the test unless tx has so far written exactly the events
// want to the default table, in this order. With none, it must have written no
// event.
//
// A field of want that is zero is not compared, Payload nil included
// (NullPayload asks for NULL). A payload is compared as JSON, where spacing,
// the order of keys and the spelling of numbers do not matter; a []byte that is
// not JSON is compared byte for byte. Of the headers, those of want must be
// there; more are allowed.
func RequireWritten(t testing.TB, ctx context.Context, tx pgx.Tx, want ...outbox.Event) {
	t.Helper()
	Table{}.RequireWritten(t, ctx, tx, want...)
}

// RequireWrittenSQL is RequireWritten for database/sql.
func RequireWrittenSQL(t testing.TB, ctx context.Context, tx *sql.Tx, want ...outbox.Event) {
	t.Helper()
	Table{}.RequireWrittenSQL(t, ctx, tx, want...)
}

// RequireWritten is the function of that name for another table.
func (table Table) RequireWritten(t testing.TB, ctx context.Context, tx pgx.Tx, want ...outbox.Event) {
	t.Helper()
	require(t, table.Events(t, ctx, tx), want)
}

// RequireWrittenSQL is RequireWritten for database/sql.
func (table Table) RequireWrittenSQL(t testing.TB, ctx context.Context, tx *sql.Tx, want ...outbox.Event) {
	t.Helper()
	require(t, table.EventsSQL(t, ctx, tx), want)
}

func require(t testing.TB, got []Written, want []outbox.Event) {
	t.Helper()
	report, err := compare(got, want)
	if err != nil {
		t.Fatalf("outboxtest: %v", err)
	}
	if report != "" {
		t.Fatalf("outboxtest: the transaction wrote other events than wanted (- wanted, + written):\n%s", report)
	}
}
