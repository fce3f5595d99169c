package devenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The superuser of every server, and the password that URL puts in.
const (
	postgresUser     = "postgres"
	postgresPassword = "postgres"
)

// PostgresOptions says which PostgreSQL to start. The zero value is a good one.
type PostgresOptions struct {
	// Version is a major version, "14" to "18". Empty is that of the programs
	// in the directory OUTBOXD_TEST_POSTGRES_BIN, else DefaultPostgres.
	Version string
	// Settings go to postgresql.conf, over the ones that fit tests:
	// wal_level=logical, 50 senders and slots, 300 connections. ALTER SYSTEM
	// overrides them. fsync stays on unless it is turned off here.
	Settings map[string]string
	// Dir is a data directory to start on: one of a stopped server of the same
	// version, which is copied. Empty is a new, empty cluster. A copy with a
	// standby.signal becomes a standby.
	Dir string
}

// Postgres is a PostgreSQL server. Its methods may be called from several
// goroutines at once.
type Postgres struct {
	server
	port    int
	data    string
	version string
}

// StartPostgres starts a server and returns when it accepts connections: in
// under a second, except the first time on a machine. Close it when done.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	inst, err := install(ctx, o.Version)
	if err != nil {
		return nil, err
	}
	box, err := newSandbox("postgres", "QUIT")
	if err != nil {
		return nil, err
	}
	p, err := newPostgres(ctx, inst, box, o)
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, box.close())
	}
	return p, nil
}

func newPostgres(ctx context.Context, inst *installation, box *sandbox, o PostgresOptions) (*Postgres, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &Postgres{port: port, data: filepath.Join(box.dir, "data"), version: inst.version}
	template, env := inst.template, box.env("LC_ALL=C", "TZ=UTC")
	if o.Dir != "" {
		template = o.Dir
	}
	if err := box.run(ctx, command{name: "cp", args: []string{"cp", "-Rp", template, p.data}, env: env}); err != nil {
		return nil, err
	}
	if err := p.configure(o.Settings); err != nil {
		return nil, err
	}
	p.server = server{
		box: box,
		cmd: command{
			name: "postgres",
			args: []string{filepath.Join(inst.bin, "postgres"), "-D", p.data},
			env:  env,
		},
		ready: p.accepts,
	}
	return p, nil
}

// Close stops the server and removes all its files. It may be called more than
// once; the server cannot be started again.
func (p *Postgres) Close() error { return p.box.close() }

// configure appends settings to postgresql.conf, where ALTER SYSTEM can still
// override them; on the command line it could not.
func (p *Postgres) configure(settings map[string]string) error {
	all := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"port":                    strconv.Itoa(p.port),
		"wal_level":               "logical",
		"max_wal_senders":         "50",
		"max_replication_slots":   "50",
		"max_connections":         "300",
		"timezone":                "UTC",
		"log_line_prefix":         "%m [%p] %u@%d %a ",
	}
	maps.Copy(all, settings)
	var conf bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, strings.ReplaceAll(all[name], "'", "''"))
	}
	f, err := os.OpenFile(filepath.Join(p.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure PostgreSQL: %w", err)
	}
	_, err = f.Write(conf.Bytes())
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("configure PostgreSQL: %w", err)
	}
	return nil
}

// accepts asks the way pg_ctl does, without a connection: the postmaster keeps
// its state in the eighth line of its pid file. The first line tells the file
// of this postmaster from one that a killed postmaster left.
func (p *Postgres) accepts(context.Context) error {
	b, err := os.ReadFile(filepath.Join(p.data, "postmaster.pid"))
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	if lines[0] != strconv.Itoa(p.proc.cmd.Process.Pid) || len(lines) < 8 {
		return errors.New("the postmaster has not written its pid file")
	}
	if state := strings.TrimSpace(lines[7]); state != "ready" && state != "standby" {
		return fmt.Errorf("the postmaster is %s", state)
	}
	return nil
}

// Start starts the server again after Stop or Kill, on the same port and data,
// and returns when it accepts connections.
func (p *Postgres) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := p.server.Start(ctx)
		// The children of a killed postmaster see its death a moment later. Until
		// the last of them is gone the new postmaster refuses to start.
		if err == nil || !strings.Contains(err.Error(), "pre-existing shared memory block") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop shuts the server down as pg_ctl does and waits for its end: mode "smart"
// waits for every session, "fast" ends them, and "immediate" is a crash after
// which the next start recovers from WAL. A stopped server is no error.
func (p *Postgres) Stop(ctx context.Context, mode string) error {
	signals := map[string]syscall.Signal{
		"smart":     syscall.SIGTERM,
		"fast":      syscall.SIGINT,
		"immediate": syscall.SIGQUIT,
	}
	sig, ok := signals[mode]
	if !ok {
		return fmt.Errorf("stop PostgreSQL: unknown mode %q (smart, fast, immediate)", mode)
	}
	return p.stop(ctx, sig)
}

// URL returns a connection string for a role whose password is "postgres". The
// superuser is "postgres", and so is the database that always exists.
func (p *Postgres) URL(database, user string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(user, postgresPassword),
		Host:     loopback(p.port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase creates an empty database and returns its URL for the
// superuser.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) (string, error) {
	conn, err := pgconn.Connect(ctx, p.URL("postgres", postgresUser))
	if err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()).ReadAll()
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return p.URL(name, postgresUser), nil
}

// Port is the TCP port on 127.0.0.1. It stays the same across restarts.
func (p *Postgres) Port() int { return p.port }

// DataDir is the data directory. When the program is root it belongs to nobody.
func (p *Postgres) DataDir() string { return p.data }

// Version is the major version, such as "17".
func (p *Postgres) Version() string { return p.version }
