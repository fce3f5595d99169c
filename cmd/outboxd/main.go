// Command outboxd publishes the events that services write into their own
// PostgreSQL transactions to Kafka or RabbitMQ. See outboxd --help.
package main

import (
	"context"
	"os"
)

func main() {
	// Where nothing says otherwise: the driver's own default takes any
	// certificate, and goes on without TLS where there is none. It reads this
	// variable itself; a connection string and a service file go before it.
	if os.Getenv("PGSSLMODE") == "" {
		_ = os.Setenv("PGSSLMODE", "verify-full")
	}
	os.Exit(execute(context.Background(), os.Args[1:], os.Environ(), streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}
