package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/examples/shop/internal/audit"
	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/examples/shop/internal/notification"
	"github.com/outboxd/outboxd/examples/shop/internal/reservation"
	"github.com/outboxd/outboxd/examples/shop/internal/shop"
)

// station is a context as the demo sees it: by what goes in and out.
type station struct {
	name      string
	publishes string   // aggregate type, empty for none
	consumes  []string // aggregate types
	// competing: its consumers share a queue, and there is no order between
	// what one does and what the other does.
	competing bool
	witness   bool   // it gets every record that a broker has for the shop
	absent    string // why it is not there, empty if it is
}

// stations are the shop's contexts.
func stations(real bool) []station {
	list := []station{
		{name: "shop", publishes: "order", consumes: []string{"reservation"}},
		{name: "reservation", publishes: "reservation", consumes: []string{"order"}},
		{name: "audit", consumes: []string{"order", "reservation"}, witness: true},
		{name: "notification", consumes: []string{"reservation"}, competing: true, witness: true},
	}
	if !real {
		list[3].absent = "joins with make demo BROKERS=real"
	}
	return list
}

// open starts the consumers of all contexts and their synchronous API, and
// returns its address. They work until ctx ends.
func (d *demo) open(ctx context.Context) (string, error) {
	db, err := pgxpool.New(ctx, d.services.shop)
	if err != nil {
		return "", err
	}
	d.closers = append(d.closers, db.Close)
	orders, reservations, trail := shop.New(db), reservation.New(db), audit.New(db)
	d.consume(ctx, 1, shop.Subscription(), d.ledger.note("shop", orders.Handle))
	d.consume(ctx, 2, reservation.Subscription(), d.ledger.note("reservation", reservations.Handle))
	d.consume(ctx, 1, audit.Subscription(), d.ledger.note("audit", trail.Handle))
	if d.services.rabbitmq != "" {
		mails := notification.New(db)
		if err := notification.Queue().Declare(d.services.rabbitmq); err != nil {
			return "", err
		}
		d.compete(ctx, 2, notification.Queue(), d.ledger.note("notification", mails.Handle))
	}
	mux := http.NewServeMux()
	orders.Routes(mux)
	reservations.Routes(mux)
	trail.Routes(mux)
	return d.serve(ctx, mux)
}

// consume starts members of a Kafka group.
func (d *demo) consume(ctx context.Context, members int, s inbound.Subscription, handle inbound.Handler) {
	for range members {
		d.crew.add(func() error { return inbound.ConsumeKafka(ctx, d.services.kafka, s, handle) })
	}
}

// compete starts consumers of a RabbitMQ queue.
func (d *demo) compete(ctx context.Context, consumers int, q inbound.Queue, handle inbound.Handler) {
	for range consumers {
		d.crew.add(func() error { return inbound.ConsumeRabbitMQ(ctx, d.services.rabbitmq, q, handle) })
	}
}

const headerTimeout = 5 * time.Second

func (d *demo) serve(ctx context.Context, handler http.Handler) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("serve the shop: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
	context.AfterFunc(ctx, func() { server.Close() })
	d.crew.add(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the shop: %w", err)
		}
		return nil
	})
	return "http://" + listener.Addr().String(), nil
}
