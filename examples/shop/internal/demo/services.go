package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxd/outboxd/examples/shop/internal/monolith"
	"github.com/outboxd/outboxd/internal/devenv"
)

// services are what the shop and the relay run on.
type services struct {
	admin, relay, shop string // the shop's database, as three roles
	kafka              []string
	rabbitmq           string // empty in the embedded demo
	closers            []io.Closer
}

// startServices starts PostgreSQL and the brokers. Close what it returns, also
// after an error.
func startServices(ctx context.Context, real bool, say func(string, ...any)) (*services, error) {
	s := &services{}
	say("starting PostgreSQL")
	postgres, err := devenv.StartPostgres(ctx, devenv.PostgresOptions{})
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, postgres)
	if s.admin, err = postgres.CreateDatabase(ctx, "shop"); err != nil {
		return s, err
	}
	s.relay, s.shop = postgres.URL("shop", "relay"), postgres.URL("shop", "shop")
	if !real {
		kfake, err := devenv.StartKfake()
		if err != nil {
			return s, err
		}
		s.closers = append(s.closers, kfake)
		s.kafka = kfake.Brokers()
		return s, nil
	}
	say("starting Kafka and RabbitMQ")
	kafka, err := devenv.StartKafka(ctx, devenv.KafkaOptions{})
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, kafka)
	s.kafka = kafka.Brokers()
	rabbitmq, err := devenv.StartRabbitMQ(ctx, devenv.RabbitMQOptions{})
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, rabbitmq)
	s.rabbitmq = rabbitmq.URL()
	return s, nil
}

// Close stops everything, what was started last first.
func (s *services) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// furnish makes the two roles, neither a superuser, and the shop's tables.
// outboxd setup grants the roles what they need beyond that.
func (s *services) furnish(ctx context.Context) error {
	admin, err := pgxpool.New(ctx, s.admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	_, err = admin.Exec(ctx, `
		CREATE ROLE relay LOGIN REPLICATION PASSWORD 'postgres';
		CREATE ROLE shop LOGIN PASSWORD 'postgres';
		ALTER DATABASE shop OWNER TO shop`)
	if err != nil {
		return fmt.Errorf("create roles: %w", err)
	}
	owner, err := pgxpool.New(ctx, s.shop)
	if err != nil {
		return err
	}
	defer owner.Close()
	return monolith.Create(ctx, owner)
}
