package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/outboxd/outboxd/internal/devenv"
)

// service is one that can be started: the variable that names a running one,
// and a start that returns the variables to set.
type service struct {
	name, variable string
	start          func(context.Context) (io.Closer, []string, error)
}

var services = []service{
	{"postgres", "OUTBOXD_TEST_DATABASE", startPostgres},
	{"kafka", "OUTBOXD_TEST_KAFKA", startKafka},
	{"rabbitmq", "OUTBOXD_TEST_RABBITMQ", startRabbitMQ},
}

// start starts the named services at the same time. Also after an error, stop
// takes down those that were started.
func start(ctx context.Context, names []string) (env []string, stop func() error, err error) {
	var (
		mu      sync.Mutex
		running []io.Closer
	)
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range services {
		if !slices.Contains(names, s.name) || os.Getenv(s.variable) != "" {
			continue
		}
		group.Go(func() error {
			c, vars, err := s.start(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			running = append(running, c)
			env = append(env, vars...)
			return nil
		})
	}
	err = group.Wait()
	stop = func() error {
		errs := make([]error, len(running))
		var wg sync.WaitGroup
		for i, c := range running {
			wg.Go(func() { errs[i] = c.Close() })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	return env, stop, err
}

func startPostgres(ctx context.Context) (io.Closer, []string, error) {
	// The operating system does not crash in these tests.
	p, err := devenv.StartPostgres(ctx, devenv.PostgresOptions{Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		return nil, nil, err
	}
	return p, []string{"OUTBOXD_TEST_DATABASE=" + p.URL("postgres", "postgres")}, nil
}

func startKafka(ctx context.Context) (io.Closer, []string, error) {
	k, err := devenv.StartKafka(ctx, devenv.KafkaOptions{})
	if err != nil {
		return nil, nil, err
	}
	return k, []string{"OUTBOXD_TEST_KAFKA=" + strings.Join(k.Brokers(), ",")}, nil
}

func startRabbitMQ(ctx context.Context) (io.Closer, []string, error) {
	r, err := devenv.StartRabbitMQ(ctx, devenv.RabbitMQOptions{})
	if err != nil {
		return nil, nil, err
	}
	return r, []string{"OUTBOXD_TEST_RABBITMQ=" + r.URL(), "OUTBOXD_TEST_RABBITMQCTL=" + r.CtlPath()}, nil
}
