package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// DefaultPort is used for brokers without one.
	DefaultPort = "9092"
	// DefaultClientID is what the broker's logs and quotas see.
	DefaultClientID = "outboxd"
	// DefaultCompression costs least per byte saved.
	DefaultCompression = "snappy"
	// DefaultLanes is how many windows are on their way at a time.
	DefaultLanes = 4
	// DefaultWindowRecords bounds the records of one window.
	DefaultWindowRecords = 4096
	// DefaultWindowBytes bounds the bytes of one window. A publisher holds
	// two windows a lane: 16 MiB with the defaults, and what single records
	// are larger than a window.
	DefaultWindowBytes = 2 << 20
	// DefaultMaxRequestBytes is Kafka's default of socket.request.max.bytes.
	DefaultMaxRequestBytes = 100 << 20
	// DialTimeout bounds one connection attempt with its TLS handshake.
	DialTimeout = 10 * time.Second
)

// Config says how to reach a cluster and how to publish. The zero value of
// every field but Brokers is a documented default.
type Config struct {
	// Brokers are the seed addresses, host:port. Required.
	Brokers []string
	// ClientID defaults to DefaultClientID.
	ClientID string

	// TLS encrypts. The fields below it require it.
	TLS bool
	// CAFile holds the authorities to trust, PEM. Empty: the system's. This and
	// all other files are read again for every connection: what is rotated is
	// in force from the next one on.
	CAFile string
	// CertFile and KeyFile are the client's certificate, PEM, both or none.
	CertFile, KeyFile string
	// ServerName is expected in the broker's certificate. Empty: the host.
	ServerName string
	// Insecure accepts any certificate.
	Insecure bool

	// SASL is plain, scram-sha-256, scram-sha-512 or oauthbearer; empty: no
	// login.
	SASL string
	// User and Password are the login. Password is never printed.
	User     string
	Password string `json:"-"`
	// PasswordFile is read instead of Password; a trailing newline is dropped.
	PasswordFile string

	// OAuthTokenFile holds the token for oauthbearer, which something else keeps
	// current.
	OAuthTokenFile string
	// OAuthEndpoint gives tokens instead, for the credentials of a client; https
	// unless it is on this host. OAuthScope may be empty.
	OAuthEndpoint, OAuthClientID, OAuthClientSecretFile, OAuthScope string

	// Compression is none, gzip, snappy, lz4 or zstd. Empty:
	// DefaultCompression.
	Compression string
	// Lanes is over how many clients the partitions are spread. Zero:
	// DefaultLanes.
	Lanes int
	// WindowRecords and WindowBytes bound a window. Zero: the defaults.
	WindowRecords, WindowBytes int
	// MaxMessageBytes is taken for the max.message.bytes of every topic. Zero:
	// the cluster is asked for each topic.
	MaxMessageBytes int
	// MaxRequestBytes is the largest request that is sent, 2 MiB to 1 GiB; a
	// record must fit into one. It should be the brokers'
	// socket.request.max.bytes: a larger request ends the connection without a
	// word. Zero: DefaultMaxRequestBytes.
	MaxRequestBytes int

	// CreateTopics creates topics that are missing.
	CreateTopics bool
	// Partitions and ReplicationFactor are those of created topics. Zero: the
	// broker's default.
	Partitions, ReplicationFactor int

	// Dial replaces the dialer, below the guard and TLS.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger takes the rare warnings. Nil: none.
	Logger *slog.Logger
}

var (
	compressions = []string{"none", "gzip", "snappy", "lz4", "zstd"}
	logins       = []string{"plain", "scram-sha-256", "scram-sha-512"} // by user and password
	mechanisms   = append(slices.Clone(logins), oauthBearer)
)

const oauthBearer = "oauthbearer"

// withDefaults returns c with its zero values replaced.
func (c Config) withDefaults() Config {
	if c.ClientID == "" {
		c.ClientID = DefaultClientID
	}
	if c.Compression == "" {
		c.Compression = DefaultCompression
	}
	if c.Lanes == 0 {
		c.Lanes = DefaultLanes
	}
	if c.WindowRecords == 0 {
		c.WindowRecords = DefaultWindowRecords
	}
	if c.WindowBytes == 0 {
		c.WindowBytes = DefaultWindowBytes
	}
	if c.MaxRequestBytes == 0 {
		c.MaxRequestBytes = DefaultMaxRequestBytes
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns a *publisher.ConfigError that names everything that is
// wrong with c, or nil. It reads no file.
func (c Config) Validate() error {
	var wrong []error
	bad := func(broken bool, format string, args ...any) {
		if broken {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	bad(len(c.Brokers) == 0, "no broker address")
	for _, b := range c.Brokers {
		_, _, err := net.SplitHostPort(b)
		bad(err != nil, "broker address %q is not host:port", b)
	}
	bad(c.Compression != "" && !slices.Contains(compressions, c.Compression),
		"compression %q is none of %s", c.Compression, strings.Join(compressions, ", "))
	bad(c.SASL != "" && !slices.Contains(mechanisms, c.SASL),
		"sasl %q is none of %s", c.SASL, strings.Join(mechanisms, ", "))
	c.checkOAuth(bad)
	bad(c.SASL != "" && c.SASL != oauthBearer && c.User == "", "sasl %s needs a user", c.SASL)
	bad(c.SASL == "" && (c.User != "" || c.Password != "" || c.PasswordFile != ""),
		"a user or password is given and no mechanism: add sasl=%s", strings.Join(logins, "|"))
	bad(c.Password != "" && c.PasswordFile != "", "both a password and a password file are given")
	bad((c.CertFile == "") != (c.KeyFile == ""), "cert and key are given together or not at all")
	bad(!c.TLS && (c.CAFile != "" || c.CertFile != "" || c.ServerName != "" || c.Insecure),
		"ca, cert, key, server_name and insecure need tls=true")
	bad(!c.CreateTopics && (c.Partitions != 0 || c.ReplicationFactor != 0),
		"partitions and replication_factor need create_topics=true")
	bad(c.Lanes < 0 || c.Lanes > 64, "lanes %d is not within 1 and 64", c.Lanes)
	bad(c.WindowRecords < 0 || c.WindowBytes < 0 || c.MaxMessageBytes < 0, "a size is negative")
	bad(c.MaxRequestBytes != 0 && (c.MaxRequestBytes < 2<<20 || c.MaxRequestBytes > 1<<30),
		"max_request_bytes %d is not within 2097152 and 1073741824", c.MaxRequestBytes)
	bad(c.Partitions < 0 || c.ReplicationFactor < 0 || c.ReplicationFactor > 1<<15-1 || c.Partitions > 1<<31-1,
		"partitions or replication_factor is out of range")
	if len(wrong) == 0 {
		return nil
	}
	return &publisher.ConfigError{Code: "config", Detail: "kafka configuration", Err: errors.Join(wrong...)}
}

// String is the URL of c, without the password.
func (c Config) String() string {
	var b strings.Builder
	b.WriteString("kafka")
	if c.TLS {
		b.WriteString("+tls")
	}
	b.WriteString("://")
	if c.User != "" {
		b.WriteString(url.PathEscape(c.User))
		if c.Password != "" {
			b.WriteString(":xxxxx")
		}
		b.WriteByte('@')
	}
	b.WriteString(strings.Join(c.Brokers, ","))
	query := url.Values{}
	for _, p := range parameters {
		if v := p.get(&c); v != "" && p.name != "tls" && p.name != "user" {
			query.Set(p.name, v)
		}
	}
	if len(query) > 0 {
		b.WriteString("?" + query.Encode())
	}
	return b.String()
}

// GoString keeps the password out of %#v.
func (c Config) GoString() string { return "kafka.Config(" + c.String() + ")" }

// LogValue keeps the password out of slog's handlers.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// options are those of every client of a publisher.
func (c Config) options() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.DisableClientMetrics(),
		// A leader that moved is found after this, not after the 5 s default.
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.MetadataMaxAge(time.Minute),
	}
	if c.SASL == "" {
		return opts
	}
	return append(opts, kgo.SASL(c.mechanism()))
}

func (c Config) codec() kgo.CompressionCodec {
	switch c.Compression {
	case "gzip":
		return kgo.GzipCompression()
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		return kgo.ZstdCompression()
	}
	return kgo.NoCompression()
}
