package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

// Ordering says how the order of a key is kept; see the package comment.
type Ordering string

const (
	// Strict keeps the order of a key also across a refusal, with at most one
	// unconfirmed record a key. The zero Ordering means Strict.
	Strict Ordering = "strict"
	// Pipelined has any number of records of a key unconfirmed.
	Pipelined Ordering = "pipelined"
)

// Unroutable says what becomes of a record that the exchange routes to no
// queue.
type Unroutable string

const (
	// Hold fails the record with a publisher.HeldError: it is tried again until
	// someone binds a queue. The zero Unroutable means Hold.
	Hold Unroutable = "hold"
	// Discard reports the record as published and counts it: right for events
	// that nobody need subscribe to.
	Discard Unroutable = "discard"
	// Park fails the record with a publisher.PoisonError of the reason
	// "unroutable".
	Park Unroutable = "park"
)

// Defaults of Config.
const (
	DefaultExchange       = "outbox" // set by ParseURL only
	DefaultVHost          = "/"
	DefaultChannels       = 2
	DefaultWindow         = 2000    // records a channel
	DefaultWindowBytes    = 8 << 20 // bytes a channel
	DefaultHeartbeat      = 10 * time.Second
	DefaultConnectTimeout = 10 * time.Second
	DefaultWriteTimeout   = 30 * time.Second
	DefaultConfirmTimeout = time.Minute
	maxChannels           = 256
)

// Config says which broker and exchange to publish to, and how. ParseURL makes
// one of a URL.
type Config struct {
	// Hosts are host:port, tried in order by each Open.
	Hosts []string
	// VHost is DefaultVHost when empty.
	VHost string
	// User and Password log in with SASL PLAIN. An empty user is guest, guest,
	// which RabbitMQ takes over loopback only; with a client certificate it is
	// SASL EXTERNAL.
	User     string
	Password string `json:"-"`
	// Name is shown in the broker's list of connections; "outboxd" when empty.
	Name string

	// Exchange takes every record. Empty is AMQP's default exchange, which
	// routes to the queue that the routing key names.
	Exchange   string
	Ordering   Ordering
	Unroutable Unroutable
	// Transient publishes with delivery mode 1: what is acked is lost when the
	// broker restarts. The zero value publishes persistent records.
	Transient bool
	// MaxMessageSize is the largest value in bytes that is sent. It should be
	// the broker's max_message_size, which a client cannot ask for. Zero means
	// the broker's default by its version: 16 MiB from 4.0 on, 128 MiB before.
	MaxMessageSize int

	// Channels is the number of lanes.
	Channels int
	// Window and WindowBytes bound, for each channel, the records that were
	// taken and have no outcome, those that wait for their key included. A
	// record larger than WindowBytes is taken when nothing else is held.
	Window      int
	WindowBytes int

	// Heartbeat is proposed to the broker; a connection that is silent for one
	// and a half of it is given up. Whole seconds, at least one.
	Heartbeat time.Duration
	// ConnectTimeout bounds the opening of a connection to one host.
	ConnectTimeout time.Duration
	// WriteTimeout bounds each write to the connection while the broker has not
	// said that it is blocked.
	WriteTimeout time.Duration
	// ConfirmTimeout bounds the wait of a channel for its next confirm while the
	// broker has not said that it is blocked, and what is to be confirmed has
	// left; the connection is then given up.
	// A quorum queue that has lost its leader was seen to forget what it was
	// sent, and neither confirms nor refuses it, ever.
	ConfirmTimeout time.Duration

	// TLS encrypts (amqps). CAFile replaces the system's certificate
	// authorities; CertFile and KeyFile are the client's own certificate;
	// ServerName is what the server's certificate must be for, the host of the
	// connection when empty. Files are PEM and are read by each Open.
	TLS        bool
	CAFile     string
	CertFile   string
	KeyFile    string
	ServerName string

	// Dial opens the network connection, below TLS. Nil means net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger is told when the broker blocks and unblocks the connection, and of
	// a hot key. Nil logs nothing.
	Logger *slog.Logger
}

// String returns the configuration as a URL without the password.
func (c Config) String() string {
	u := url.URL{Scheme: "amqp", Host: strings.Join(c.Hosts, ","), Path: "/" + c.VHost}
	if c.TLS {
		u.Scheme = "amqps"
	}
	u.RawPath = "/" + url.PathEscape(c.VHost)
	if c.User != "" {
		u.User = url.User(c.User)
	}
	u.RawQuery = url.Values{"exchange": {c.Exchange}}.Encode()
	return u.String()
}

// GoString keeps the password out of %#v.
func (c Config) GoString() string { return "rabbitmq.Config(" + c.String() + ")" }

// LogValue keeps the password out of slog's handlers.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Validate returns a *publisher.ConfigError that names everything wrong with c,
// or nil. Files are not read.
func (c Config) Validate() error {
	if problems := c.withDefaults().problems(); len(problems) > 0 {
		return configError(problems)
	}
	return nil
}

func configError(problems []error) error {
	return &publisher.ConfigError{Code: "config", Detail: "rabbitmq broker", Err: errors.Join(problems...)}
}

func (c Config) problems() []error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(len(c.Hosts) > 0, "no host")
	check(len(c.Exchange) <= maxShortString, "exchange name has %d bytes, at most %d are possible", len(c.Exchange), maxShortString)
	check(c.Ordering == Strict || c.Ordering == Pipelined, "ordering is %q, want strict or pipelined", c.Ordering)
	check(c.Unroutable == Hold || c.Unroutable == Discard || c.Unroutable == Park, "unroutable is %q, want hold, discard or park", c.Unroutable)
	check(c.Channels >= 1 && c.Channels <= maxChannels, "channels is %d, want 1 to %d", c.Channels, maxChannels)
	check(c.Window >= 1 && c.WindowBytes >= 1, "window is %d records and %d bytes, want at least one of each", c.Window, c.WindowBytes)
	check(c.MaxMessageSize >= 0, "max_message_size is %d", c.MaxMessageSize)
	check(c.Heartbeat >= time.Second && c.Heartbeat < 1<<16*time.Second, "heartbeat is %v, want 1s to 65535s", c.Heartbeat)
	check(min(c.ConnectTimeout, c.WriteTimeout, c.ConfirmTimeout) > 0, "timeouts are %v, %v and %v, want more than 0",
		c.ConnectTimeout, c.WriteTimeout, c.ConfirmTimeout)
	check(c.TLS || c.CAFile+c.CertFile+c.KeyFile+c.ServerName == "", "TLS options without TLS: use amqps://")
	check((c.CertFile == "") == (c.KeyFile == ""), "a client certificate needs both tls_cert and tls_key")
	return problems
}

func (c Config) withDefaults() Config {
	set(&c.VHost, DefaultVHost)
	set(&c.Name, "outboxd")
	set(&c.Ordering, Strict)
	set(&c.Unroutable, Hold)
	set(&c.Channels, DefaultChannels)
	set(&c.Window, DefaultWindow)
	set(&c.WindowBytes, DefaultWindowBytes)
	set(&c.Heartbeat, DefaultHeartbeat)
	set(&c.ConnectTimeout, DefaultConnectTimeout)
	set(&c.WriteTimeout, DefaultWriteTimeout)
	set(&c.ConfirmTimeout, DefaultConfirmTimeout)
	if c.User == "" && c.CertFile == "" {
		c.User, c.Password = "guest", "guest"
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
