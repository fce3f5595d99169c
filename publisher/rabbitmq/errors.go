package rabbitmq

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/publisher"
)

// This file alone decides what an answer of the broker means.

// openError says what a failed Open of the network, TLS or AMQP connection
// means. read is the error that the library met when reading and forgot.
func openError(addr string, err, read error) error {
	var amqpErr *amqp.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate) || tlsAlert(err):
		return &publisher.ConfigError{Code: "config", Detail: "open TLS connection to " + addr, Err: err}
	case tlsAlert(read):
		// TLS 1.3 refuses a client's certificate after the handshake.
		return &publisher.ConfigError{Code: "config", Detail: "open TLS connection to " + addr, Err: read}
	case errors.Is(err, amqp.ErrSASL):
		return &publisher.ConfigError{Code: "auth", Detail: fmt.Sprintf("log in to %s: the broker offers no SASL mechanism that was configured", addr)}
	case errors.As(err, &amqpErr) && amqpErr.Server:
		return openRefused(addr, amqpErr)
	case read != nil:
		// Better than err: the library takes any trouble while logging in for a
		// wrong password.
		return fmt.Errorf("open connection to %s: %w", addr, read)
	}
	return fmt.Errorf("open connection to %s: %w", addr, err)
}

// tlsAlert says whether the other side ended TLS with an alert: it wants another
// certificate or protocol version. The alert's own type is not exported. It may
// stand beside a write that failed because the other side had hung up already.
func tlsAlert(err error) bool {
	switch e := err.(type) {
	case *net.OpError:
		return e.Op == "remote error" || tlsAlert(e.Err)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), tlsAlert)
	case interface{ Unwrap() error }:
		return tlsAlert(e.Unwrap())
	}
	return false
}

// openRefused judges the broker's own answer to connection.open.
func openRefused(addr string, e *amqp.Error) error {
	switch {
	case e.Code == amqp.AccessRefused:
		return &publisher.ConfigError{Code: "auth", Detail: fmt.Sprintf("log in to %s: user or password refused", addr), Err: e}
	case e.Code == amqp.NotAllowed && strings.Contains(e.Reason, "not found"):
		return &publisher.HeldError{Reason: "missing_vhost", Target: addr, Fix: "create the vhost at the broker", Err: e}
	case e.Code == amqp.NotAllowed && strings.Contains(e.Reason, "refused"):
		return &publisher.HeldError{Reason: "not_authorized", Target: addr, Fix: "give the user permissions in the vhost", Err: e}
	}
	return fmt.Errorf("open connection to %s: %w", addr, e)
}

// exchangeError judges why the check of the exchange failed.
func exchangeError(exchange string, err error) error {
	var e *amqp.Error
	if errors.As(err, &e) && e.Server {
		return channelError(e, exchange)
	}
	return fmt.Errorf("look up exchange %q: %w", exchange, err)
}

// channelError says why a channel ended. It does not say what became of the
// records that were on their way: that is unknown.
func channelError(e *amqp.Error, exchange string) error {
	switch {
	case e.Server && e.Code == amqp.NotFound:
		return &publisher.HeldError{Reason: "missing_exchange", Target: exchange, Err: e,
			Fix: "declare the exchange and bind a queue to it, or name another one with --exchange; the relay declares nothing"}
	case e.Server && e.Code == amqp.AccessRefused:
		return &publisher.HeldError{Reason: "not_authorized", Target: exchange, Err: e,
			Fix: "give the user write permission on the exchange"}
	case e.Server:
		return fmt.Errorf("broker ended the channel: %w", e)
	}
	return fmt.Errorf("connection to the broker ended: %s", e.Reason)
}

// nackError is for a record that the broker itself refused with basic.nack.
func nackError(r *publisher.Record) error {
	return &publisher.HeldError{Reason: "refused", Target: r.Topic,
		Fix: "a queue behind the exchange took it not: it is full and rejects (x-overflow), or has an error in the broker's log"}
}

// unroutableError is for a record that was returned.
func unroutableError(r *publisher.Record, exchange string, policy Unroutable) error {
	if policy == Park {
		return &publisher.PoisonError{Reason: "unroutable", Detail: fmt.Sprintf("no queue is bound to exchange %q for the routing key %q", exchange, r.Topic)}
	}
	return &publisher.HeldError{Reason: "unroutable", Target: r.Topic,
		Fix: fmt.Sprintf("bind a queue to exchange %q for this routing key, or let such records go with --unroutable discard or park", exchange)}
}

var sizeReason = regexp.MustCompile(`message size (\d+).* max.* size (\d+)`)

// sizeRefused finds out whether the broker ended the channel because a message
// is larger than its max_message_size.
func sizeRefused(e *amqp.Error) (size, limit int, ok bool) {
	if e == nil || !e.Server || e.Code != amqp.PreconditionFailed {
		return 0, 0, false
	}
	m := sizeReason.FindStringSubmatch(e.Reason)
	if m == nil {
		return 0, 0, false
	}
	size, err1 := strconv.Atoi(m[1])
	limit, err2 := strconv.Atoi(m[2])
	return size, limit, err1 == nil && err2 == nil
}

// tooLargeError is for the record over which the broker ended the channel.
func tooLargeError(size, limit int, e *amqp.Error) error {
	return &publisher.PoisonError{Reason: "too_large", Err: e,
		Detail: fmt.Sprintf("the value has %d bytes, the broker's max_message_size is %d", size, limit)}
}

// abortedError is for a record that was not sent because of cause, which is
// not its own: the text tells, errors.As does not find it.
func abortedError(cause error) error {
	return fmt.Errorf("%w: %v", publisher.ErrAborted, cause)
}

// unknownError is for a record that was sent and has no answer. A held cause
// (the exchange is gone) is as much this record's as any other's. Poison is
// another record's.
func unknownError(cause error) error {
	var poison *publisher.PoisonError
	if errors.As(cause, &poison) {
		return fmt.Errorf("%w: %w: %v", publisher.ErrAborted, publisher.ErrUnknown, cause)
	}
	return fmt.Errorf("%w: %w", publisher.ErrUnknown, cause)
}

// passedError is for a record that was delivered though an earlier one of its
// key failed.
func passedError(cause error) error {
	return fmt.Errorf("%w: %w: it was on its way already: %v", publisher.ErrAborted, publisher.ErrUnknown, cause)
}
