// Command outboxd publishes the events that services write into their own
// PostgreSQL transactions to Kafka or RabbitMQ. See outboxd --help.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], os.Environ(), streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}
