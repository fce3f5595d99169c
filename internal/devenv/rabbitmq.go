package devenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQOptions says how to start RabbitMQ. The zero value is a good one.
type RabbitMQOptions struct {
	// Config is added to rabbitmq.conf, one "key = value" a line.
	Config string
}

// RabbitMQ is one real node, from the distribution's package. Its methods may
// be called from several goroutines at once.
type RabbitMQ struct {
	server
	address string
	ctl     string // script that runs rabbitmqctl for this node
}

// debianRabbit is where Debian's package keeps the scripts themselves. Those
// that it puts in the path insist on being run by root or rabbitmq.
const debianRabbit = "/usr/lib/rabbitmq/bin"

// rabbitBin returns the directory of rabbitmq-server and rabbitmqctl.
func rabbitBin() (string, error) {
	if isDir(debianRabbit) {
		return debianRabbit, nil
	}
	path, err := lookPath("rabbitmq-server")
	if err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// StartRabbitMQ starts a node and returns when it answers, in about 8 seconds.
// It needs the distribution's package rabbitmq-server, whose own service need
// not run. Close it when done.
func StartRabbitMQ(ctx context.Context, o RabbitMQOptions) (*RabbitMQ, error) {
	bin, err := rabbitBin()
	if err != nil {
		return nil, err
	}
	epmd, err := lookPath("epmd")
	if err != nil {
		return nil, err
	}
	box, err := newSandbox("rabbitmq", "TERM")
	if err != nil {
		return nil, err
	}
	r, err := newRabbitMQ(ctx, box, bin, epmd, o)
	if err == nil {
		err = r.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, box.close())
	}
	return r, nil
}

func newRabbitMQ(ctx context.Context, box *sandbox, bin, epmd string, o RabbitMQOptions) (*RabbitMQ, error) {
	var ports [3]int // AMQP, distribution, epmd
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	env := rabbitEnv(box, ports[1], ports[2])
	r := &RabbitMQ{address: loopback(ports[0]), ctl: filepath.Join(box.dir, "rabbitmqctl")}
	if err := r.configure(box.dir, bin, env, o.Config); err != nil {
		return nil, err
	}
	// Erlang starts a daemon, epmd, where none runs, and leaves it behind. This
	// one runs in the sandbox and ends with it.
	daemon, err := box.start(command{
		name: "epmd",
		args: []string{epmd, "-address", "127.0.0.1", "-port", strconv.Itoa(ports[2])},
		env:  env,
	})
	if err != nil {
		return nil, err
	}
	if err := daemon.await(ctx, dials(loopback(ports[2]))); err != nil {
		return nil, err
	}
	r.server = server{
		box:   box,
		cmd:   command{name: "rabbitmq", args: []string{filepath.Join(bin, "rabbitmq-server")}, env: env},
		ready: r.answers,
	}
	return r, nil
}

// rabbitEnv is the environment of a node and of its tools. With
// RUNNING_UNDER_SYSTEMD the start script becomes the server, instead of
// remaining as its parent: signals and the PID are the server's own.
func rabbitEnv(box *sandbox, distribution, epmd int) []string {
	dir := box.dir // home, too: the cookie is there
	return box.env(
		"LC_ALL=C.UTF-8",
		"RUNNING_UNDER_SYSTEMD=1",
		"RABBITMQ_NODENAME="+filepath.Base(dir)+"@localhost",
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "mnesia"),
		"RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"),
		"RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"),
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(dir, "none.conf"),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(distribution),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"ERL_EPMD_PORT="+strconv.Itoa(epmd),
		"ERL_EPMD_ADDRESS=127.0.0.1",
	)
}

// configure writes the files that a node reads, and the script behind Ctl.
func (r *RabbitMQ) configure(dir, bin string, env []string, extra string) error {
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		return fmt.Errorf("configure RabbitMQ: %w", err)
	}
	conf := fmt.Sprintf("listeners.tcp.1 = %s:%s\nloopback_users = none\nlog.console = true\n%s\n", host, port, extra)
	var script strings.Builder
	script.WriteString("#!/bin/sh\nexec env -i \\\n")
	for _, v := range env {
		fmt.Fprintf(&script, "\t'%s' \\\n", strings.ReplaceAll(v, "'", `'\''`))
	}
	fmt.Fprintf(&script, "\t%s/rabbitmqctl \"$@\"\n", bin)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "rabbitmq.conf"), []byte(conf), 0o644),
		os.WriteFile(filepath.Join(dir, "plugins"), []byte("[].\n"), 0o644),
		os.WriteFile(r.ctl, []byte(script.String()), 0o755),
	)
}

// dials returns a readiness check that is content with an open port.
func dials(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// answers makes a whole connection: the port opens before the node lets users in.
func (r *RabbitMQ) answers(ctx context.Context) error {
	if err := dials(r.address)(ctx); err != nil {
		return err
	}
	conn, err := amqp.DialConfig(r.URL(), amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	return conn.Close()
}

// URL is the address of the node's default virtual host, for its administrator.
// It stays the same across restarts.
func (r *RabbitMQ) URL() string { return "amqp://guest:guest@" + r.address + "/" }

// CtlPath is a script that runs rabbitmqctl for this node, for programs that
// are not this one. It needs the rights of the user that made the node.
func (r *RabbitMQ) CtlPath() string { return r.ctl }

// Ctl runs rabbitmqctl with the arguments and returns what it printed. It takes
// one or two seconds.
func (r *RabbitMQ) Ctl(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.ctl, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("run rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return out, nil
}

// Stop ends the node in order, with SIGTERM, and waits for its end. A stopped
// node is no error.
func (r *RabbitMQ) Stop(ctx context.Context) error {
	return r.stop(ctx, syscall.SIGTERM)
}
