package notification_test

import (
	"testing"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/examples/shop/internal/monolithtest"
	"github.com/outboxd/outboxd/examples/shop/internal/notification"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

func TestMain(m *testing.M) { devtest.Main(m) }

func TestHandle(t *testing.T) {
	t.Parallel()
	db := monolithtest.Open(t)
	n := notification.New(db)
	for kind, want := range map[string]int{
		"reservation.confirmed": 1,
		"reservation.rejected":  1,
		"reservation.released":  1,
		"reservation.moved":     0,
	} {
		e := inbound.Event{ID: outbox.NewID().String(), Type: kind, Subject: "7"}
		for range 2 {
			if err := n.Handle(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if got := monolithtest.Int(t, db, `SELECT count(*) FROM mails WHERE event_id = $1 AND order_id = 7 AND subject <> ''`, e.ID); got != want {
			t.Errorf("%s: %d mails, want %d", kind, got, want)
		}
	}
	db.Close()
	if err := n.Handle(t.Context(), inbound.Event{ID: outbox.NewID().String(), Type: "reservation.confirmed", Subject: "7"}); err == nil {
		t.Error("handled without a database")
	}
}
