package cdc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// connectTimeout bounds one attempt to connect, to all hosts together.
	connectTimeout = 10 * time.Second
	// maxSenderTimeout is the wal_sender_timeout we ask for; a smaller one of
	// the server's is kept. It bounds how long a relay that is cut off keeps
	// the slot from its successor.
	maxSenderTimeout = 15 * time.Second
	// minSenderTimeout is the smallest that we ask for. The right to publish
	// lasts for half of it, and is proven anew once a tick: with less it would
	// run out each time, beside a server that lives.
	minSenderTimeout = 3 * tick
	// readBufferSize is how much one read(2) of the stream may bring. The
	// buffer lies below TLS, where a record holds a single message.
	readBufferSize = 256 << 10
)

// connectSQL opens the ordinary connection: witness, catalogs, the sensor.
func connectSQL(ctx context.Context, cfg *Config) (*pgx.Conn, error) {
	return Connect(ctx, cfg.Database, cfg.applicationName())
}

// Connect opens an ordinary connection as a session has one beside its stream.
// Its error is an *Error.
func Connect(ctx context.Context, database, application string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(database)
	if err != nil {
		return nil, stringError(err)
	}
	return ConnectConfig(ctx, config, application)
}

// stringError says why a connection string cannot be read. With it are read, for
// each connection anew, the files that it names; the cause tells which.
func stringError(err error) *Error {
	return &Error{Code: CodeConfig, Detail: "read the database's connection string and its files", Err: err,
		Fix: "see --database; sslrootcert, sslcert and sslkey must hold whole PEM blocks"}
}

// ConnectConfig is Connect with a connection string that was read before, which
// stays as it is. What a caller needs otherwise it may SET.
func ConnectConfig(ctx context.Context, config *pgx.ConnConfig, application string) (*pgx.Conn, error) {
	config = config.Copy()
	config.RuntimeParams["application_name"] = application
	// No prepared statements: a pooler in between may hand the next query to
	// another server process.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	shareTimeout(&config.Config)
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return lastWordConn{conn}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(err)
	}
	// The witness must be durable whatever the role's or the database's default
	// is: the server is told to forget on its word. Nobody who holds its row may
	// hold us for long, and a row that has changed meanwhile is no error. How long
	// a statement may take, or the connection idle, is for us to say.
	const settings = "SET synchronous_commit = 'on';" +
		"SET lock_timeout = '1s'; SET default_transaction_isolation = 'read committed'; SET statement_timeout = 0; SET idle_session_timeout = 0"
	if _, err := conn.PgConn().Exec(ctx, settings).ReadAll(); err != nil {
		closeSQL(conn)
		return nil, connectError(fmt.Errorf("set up the connection: %w", err))
	}
	return conn, nil
}

// connectReplication opens the walsender connection and sets what decoding
// depends on. The settings are SET once it is up, not sent at startup, where a
// parameter that this server does not know would be fatal.
func connectReplication(ctx context.Context, cfg *Config, version int, senderTimeout time.Duration) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig(cfg.Database)
	if err != nil {
		return nil, stringError(err)
	}
	config.RuntimeParams["replication"] = "database"
	config.RuntimeParams["application_name"] = cfg.applicationName()
	shareTimeout(config)
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &bufferedConn{Conn: lastWordConn{conn}, buf: make([]byte, readBufferSize)}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		e := connectError(err)
		if e.Code == CodePrivilege {
			e.Detail, e.Fix = "open a replication connection", replicationFix(err)
		}
		return nil, e
	}
	if _, err := conn.Exec(ctx, sessionSettings(version, senderTimeout)).ReadAll(); err != nil {
		_ = conn.Close(ctx)
		return nil, connectError(fmt.Errorf("set up the replication connection: %w", err))
	}
	return conn, nil
}

// shareTimeout gives each of several hosts its part of connectTimeout, unless
// the connection string has a connect_timeout. A host that is gone does not
// refuse: without this the first would use up all the time, and the standby
// that was promoted in its place never have its turn.
func shareTimeout(config *pgconn.Config) {
	type host struct {
		name string
		port uint16
	}
	hosts := map[host]bool{{config.Host, config.Port}: true}
	for _, f := range config.Fallbacks { // also the same host without TLS
		hosts[host{f.Host, f.Port}] = true
	}
	if n := len(hosts); n > 1 && config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout / time.Duration(n)
	}
}

// sessionSettings returns the SET commands for a walsender of version (as in
// server_version_num).
func sessionSettings(version int, senderTimeout time.Duration) string {
	set := []string{
		// Text output must not depend on the database's or the role's settings.
		"client_encoding = 'UTF8'", "datestyle = 'ISO'", "intervalstyle = 'postgres'", "timezone = 'UTC'",
		"extra_float_digits = 3", "bytea_output = 'hex'",
		// Nothing may end the session but us, the server's end, or the timeout
		// that we set for it.
		"statement_timeout = 0", "lock_timeout = 0", "idle_in_transaction_session_timeout = 0", "idle_session_timeout = 0",
		"wal_sender_timeout = " + strconv.FormatInt(senderTimeout.Milliseconds(), 10),
	}
	if version >= 17_00_00 {
		set = append(set, "transaction_timeout = 0")
	}
	return "SET " + strings.Join(set, "; SET ")
}

// senderTimeout is what this session sets wal_sender_timeout to, given the
// server's own: as small as that, within our bounds, and never off.
func senderTimeout(server time.Duration) time.Duration {
	if server <= 0 {
		return maxSenderTimeout
	}
	return min(max(server, minSenderTimeout), maxSenderTimeout)
}

// connectError names why a connection could not be had or was lost. It goes by
// SQLSTATE and by TLS alone: messages are in the language of the server.
func connectError(err error) *Error {
	e := &Error{Code: CodeUnreachable, Detail: "connect to the database", Err: connectFailure{err}}
	var pgErr *pgconn.PgError
	var certificate *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case errors.As(err, &pgErr):
		e.judge(pgErr.Code)
	case errors.As(err, &certificate):
		e.Code, e.Detail = CodeConfig, "verify the database's certificate"
		e.Fix = "in --database: sslrootcert must hold its authority, and the host be one that it is for; sslmode=verify-ca does without the second"
	case errors.As(err, &alert) && alert.Op == "remote error": // a TLS alert; its own type is not exported
		e.Code, e.Detail = CodeConfig, "show a certificate to the database"
		e.Fix = "in --database: sslcert and sslkey must be a certificate of today that the server accepts"
	case strings.HasSuffix(e.Err.Error(), refusedTLS):
		e.Code, e.Fix = CodeConfig, "turn ssl on at the server, or go without: sslmode=disable in --database, or PGSSLMODE=disable"
	default:
		e.Fix = "check host and port in --database (or PGHOST and PGPORT), and whether the server runs"
	}
	return e
}

// judge goes by the SQLSTATE with which the server refused.
func (e *Error) judge(state string) {
	switch {
	case state == "3D000":
		e.Code, e.Detail, e.Fix = CodeDatabaseMissing, "open the database", "check the database's name in --database"
	case strings.HasPrefix(state, "28"):
		e.Code, e.Detail = CodeAuth, "log in to the database"
		e.Fix = "check user and password in --database, the client certificate if it has one, and pg_hba.conf on the server"
	case state == "42501":
		e.Code, e.Fix = CodePrivilege, "as the database's owner: GRANT CONNECT ON DATABASE … TO …, with the names of --database"
	case state == "53300":
		e.Fix = "raise max_connections and max_wal_senders, or end idle connections"
	}
}

// refusedTLS is how pgx says that a server has no TLS.
const refusedTLS = "server refused TLS connection"

// connectFailure is a failure to connect that says each cause once. Under
// sslmode=prefer every host is tried with TLS and without, so that pgx tells
// twice that nobody listens, and puts "server refused TLS" before a wrong
// password, as if it were the reason.
type connectFailure struct{ error }

func (e connectFailure) Error() string {
	head, rest, several := strings.Cut(e.error.Error(), ":\n\t")
	if !several {
		return head
	}
	causes := slices.Compact(strings.Split(rest, "\n\t"))
	noTLS := func(cause string) bool { return strings.HasSuffix(cause, refusedTLS) }
	if slices.ContainsFunc(causes, func(cause string) bool { return !noTLS(cause) }) {
		causes = slices.DeleteFunc(causes, noTLS)
	}
	if len(causes) == 1 {
		return head + ": " + causes[0]
	}
	return head + ":\n\t" + strings.Join(causes, "\n\t")
}

func (e connectFailure) Unwrap() error { return e.error }

// refusesConnections reports whether the server said that it takes none (57P03):
// it starts, it recovers, or it shuts down. Which one, only its message tells.
func refusesConnections(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "57P03"
}

// replicationFix gives the right to replicate to the role that err was refused
// as.
func replicationFix(err error) string {
	role := "ROLE"
	var refused *pgconn.ConnectError
	if errors.As(err, &refused) {
		role = pgx.Identifier{refused.Config.User}.Sanitize()
	}
	return "as a superuser: ALTER ROLE " + role + " REPLICATION"
}

// lastWordConn leaves it to Read to say that the server has hung up. Before that
// the server may have said why: that it does not accept our certificate comes
// behind the handshake, and by then we may have written on, and failed. That a
// write succeeds has never meant more than that its bytes were taken.
type lastWordConn struct{ net.Conn }

func (c lastWordConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return len(p), nil
	}
	return n, err
}

// bufferedConn reads from the network in large pieces, and counts them. Only
// Read differs; like any Conn's, it is for one reader at a time.
type bufferedConn struct {
	net.Conn
	buf        []byte
	start, end int
	pieces     atomic.Uint64
}

// onWire returns the connection of connectReplication that lies below TLS.
func onWire(conn net.Conn) (*bufferedConn, error) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	wire, ok := conn.(*bufferedConn)
	if !ok {
		return nil, fmt.Errorf("the replication connection is a %T", conn)
	}
	return wire, nil
}

func (c *bufferedConn) Read(p []byte) (int, error) {
	if c.start == c.end {
		if len(p) >= len(c.buf) {
			n, err := c.Conn.Read(p)
			c.count(n)
			return n, err
		}
		n, err := c.Conn.Read(c.buf)
		c.start, c.end = 0, n
		if n == 0 {
			return 0, err
		}
		c.count(n)
		// An error that came with bytes will come again without.
	}
	n := copy(p, c.buf[c.start:c.end])
	c.start += n
	return n, nil
}

func (c *bufferedConn) count(n int) {
	if n > 0 {
		c.pieces.Add(1)
	}
}
