package rabbitmq

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/publisher"
)

const (
	maxMessageSize3 = 128 << 20 // default of RabbitMQ 3
	maxMessageSize4 = 16 << 20  // default from 4.0 on
	frameSize       = 131072    // RabbitMQ's own default

	// closeTimeout bounds the broker's answer to an orderly close.
	closeTimeout = 2 * time.Second
)

// session is one connection to the broker.
type session struct {
	conn  *amqp.Connection
	wire  *coalescer
	check *answerCheck
	raw   net.Conn // below TLS
	limit limits
}

// connect opens a session with the first host that answers.
func connect(ctx context.Context, c Config, guard publisher.Guard) (*session, error) {
	var errs []error
	for _, addr := range c.Hosts {
		s, err := connectHost(ctx, c, addr, guard)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
		var config *publisher.ConfigError
		if errors.As(err, &config) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func connectHost(ctx context.Context, c Config, addr string, guard publisher.Guard) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	raw, err := c.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, openError(addr, err, nil)
	}
	// The handshakes below end when this closes the connection.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()

	conn := publisher.GuardConn(raw, guard)
	if c.TLS {
		if conn, err = startTLS(ctx, c, addr, conn); err != nil {
			_ = raw.Close()
			return nil, err
		}
	}
	s := &session{check: newAnswerCheck(conn), raw: raw}
	s.wire = newCoalescer(s.check, c.WriteTimeout)
	if s.conn, err = amqp.Open(s.wire, amqpConfig(c)); err != nil {
		err = openError(addr, err, errors.Join(ctx.Err(), s.wire.cause(), s.wire.readCause()))
	} else if !stop() {
		err = openError(addr, context.Cause(ctx), nil)
	}
	if err != nil {
		s.abort(err)
		return nil, err
	}
	s.limit = limits{messageSize: c.MaxMessageSize, frameSize: s.conn.Config.FrameSize}
	set(&s.limit.messageSize, defaultMessageSize(s.conn.Properties))
	return s, nil
}

func startTLS(ctx context.Context, c Config, addr string, conn net.Conn) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &publisher.ConfigError{Code: "config", Detail: fmt.Sprintf("host %q", addr), Err: err}
	}
	config, err := publisher.Certificates{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile}.TLS()
	if err != nil {
		return nil, err
	}
	config.ServerName = cmp.Or(c.ServerName, host)
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, openError(addr, err, nil)
	}
	return secure, nil
}

func amqpConfig(c Config) amqp.Config {
	properties := amqp.Table{"product": "outboxd", "connection_name": c.Name}
	auth := login{properties: properties}
	if c.User == "" {
		auth.Authentication = &amqp.ExternalAuth{}
	} else {
		auth.Authentication = &amqp.PlainAuth{Username: c.User, Password: c.Password}
	}
	return amqp.Config{
		SASL:       []amqp.Authentication{auth},
		Vhost:      c.VHost,
		FrameSize:  frameSize,
		Heartbeat:  c.Heartbeat,
		Locale:     "en_US",
		Properties: properties,
	}
}

// login is a SASL mechanism that also asks the broker to say that it refuses a
// login. Otherwise it closes the connection after 3 seconds without a word, and
// a wrong password looks like a broker that restarts. The library fills in the
// client's capabilities itself, right before it asks for the response.
type login struct {
	amqp.Authentication
	properties amqp.Table
}

func (l login) Response() string {
	if capabilities, ok := l.properties["capabilities"].(amqp.Table); ok {
		capabilities["authentication_failure_close"] = true
	}
	return l.Authentication.Response()
}

// defaultMessageSize is the broker's default max_message_size by the version
// it gives in its properties. An unknown version counts as the old, large one:
// the broker then finds what is too large.
func defaultMessageSize(properties amqp.Table) int {
	version, _ := properties["version"].(string)
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n >= 4 {
		return maxMessageSize4
	}
	return maxMessageSize3
}

// checkExchange asks for the exchange on a channel of its own: the question
// about a missing one ends the channel.
func (s *session) checkExchange(exchange string) error {
	if exchange == "" {
		return nil
	}
	ch, err := s.conn.Channel()
	if err != nil {
		return exchangeError(exchange, err)
	}
	// The kind is not looked at when passive.
	if err := ch.ExchangeDeclarePassive(exchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		return exchangeError(exchange, err)
	}
	return ch.Close()
}

// abort ends the session at once. Whatever waits for it returns.
func (s *session) abort(cause error) {
	s.wire.refuse(cause) // before the sender finds the connection closed
	_ = s.raw.Close()    // before TLS would want to say goodbye
	s.wire.fail(cause)
	if s.conn != nil {
		_ = s.conn.CloseDeadline(time.Now())
	}
}

// close ends the session in good order, until ctx ends or closeTimeout is over,
// then at once.
func (s *session) close(ctx context.Context) {
	deadline := time.Now().Add(closeTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = s.conn.CloseDeadline(deadline)
	s.abort(net.ErrClosed)
}

// cause says why a channel ended, by e or without one. A failed write, such as
// one that the guard refused, closes the connection, and the library's reader
// can report that before the sender has come to keep the reason: so it waits
// for the sender, which the library ends by closing the connection.
func (s *session) cause(e *amqp.Error, exchange string) error {
	if e != nil && e.Server {
		return channelError(e, exchange)
	}
	<-s.wire.sent
	if err := s.wire.cause(); err != nil {
		return fmt.Errorf("connection to the broker ended: %w", err)
	}
	if e == nil {
		return net.ErrClosed
	}
	return channelError(e, exchange)
}
