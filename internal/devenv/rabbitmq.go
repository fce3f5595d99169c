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
	// Plugins are enabled, of those that come with RabbitMQ.
	Plugins []string
}

// RabbitMQ is one real node, from the distribution's package. Its methods may
// be called from several goroutines at once.
type RabbitMQ struct{ RabbitMQNode }

// RabbitMQNode is one node. Its methods may be called from several goroutines
// at once.
type RabbitMQNode struct {
	server
	name    string // Erlang's, without the host
	address string
	ctl     string // script that runs rabbitmqctl for this node
}

// debianRabbit is where Debian's package keeps the scripts themselves. Those
// that it puts in the path insist on being run by root or rabbitmq.
const debianRabbit = "/usr/lib/rabbitmq/bin"

// erlang is what all nodes of a sandbox have in common.
type erlang struct {
	bin  string // directory of rabbitmq-server and rabbitmqctl
	epmd int    // port
}

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
	box, err := newSandbox("rabbitmq", "TERM")
	if err != nil {
		return nil, err
	}
	r := new(RabbitMQ)
	erl, err := startErlang(ctx, box)
	if err == nil {
		err = r.prepare(box, erl, "rabbitmq", o)
	}
	if err == nil {
		err = r.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, box.close())
	}
	return r, nil
}

// startErlang starts what nodes find each other by. Erlang starts that daemon,
// epmd, where none runs, and leaves it behind. This one runs in the sandbox and
// ends with it.
func startErlang(ctx context.Context, box *sandbox) (erlang, error) {
	bin, err := rabbitBin()
	if err != nil {
		return erlang{}, err
	}
	epmd, err := lookPath("epmd")
	if err != nil {
		return erlang{}, err
	}
	port, err := freePort()
	if err != nil {
		return erlang{}, err
	}
	erl := erlang{bin, port}
	daemon, err := box.start(command{
		name: "epmd",
		args: []string{epmd, "-address", "127.0.0.1", "-port", strconv.Itoa(port)},
		env:  erl.env(box),
	})
	if err != nil {
		return erlang{}, err
	}
	return erl, daemon.await(ctx, dials(loopback(port)))
}

// env is the environment of all that runs in the sandbox. Home is there too,
// with the cookie that lets nodes and tools in.
func (e erlang) env(box *sandbox) []string {
	return box.env("LC_ALL=C.UTF-8", "ERL_EPMD_PORT="+strconv.Itoa(e.epmd), "ERL_EPMD_ADDRESS=127.0.0.1")
}

// prepare configures a node of that name, after which it can be started.
func (r *RabbitMQNode) prepare(box *sandbox, erl erlang, name string, o RabbitMQOptions) error {
	ports, err := freePorts(2) // AMQP, distribution
	if err != nil {
		return err
	}
	r.name, r.address, r.ctl = name, loopback(ports[0]), filepath.Join(box.dir, name+"-ctl")
	env := append(erl.env(box), rabbitEnv(box.dir, name, ports[1])...)
	if err := r.configure(box.dir, erl.bin, env, o); err != nil {
		return err
	}
	r.server = server{
		box:   box,
		cmd:   command{name: name, args: []string{filepath.Join(erl.bin, "rabbitmq-server")}, env: env},
		ready: r.answers,
	}
	return nil
}

// rabbitEnv is the environment of a node and of its tools. With
// RUNNING_UNDER_SYSTEMD the start script becomes the server, instead of
// remaining as its parent: signals and the PID are the server's own.
func rabbitEnv(dir, name string, distribution int) []string {
	return []string{
		"RUNNING_UNDER_SYSTEMD=1",
		"RABBITMQ_NODENAME=" + name + "@localhost",
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, name+".conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "plugins"),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "mnesia"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"),
		"RABBITMQ_PID_FILE=" + filepath.Join(dir, name+".pid"),
		"RABBITMQ_CONF_ENV_FILE=" + filepath.Join(dir, "none.conf"),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(distribution),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
	}
}

// configure writes the files that a node reads, and the script behind Ctl.
func (r *RabbitMQNode) configure(dir, bin string, env []string, o RabbitMQOptions) error {
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		return fmt.Errorf("configure RabbitMQ: %w", err)
	}
	conf := fmt.Sprintf("listeners.tcp.1 = %s:%s\nloopback_users = none\nlog.console = true\n%s\n", host, port, o.Config)
	var script strings.Builder
	script.WriteString("#!/bin/sh\nexec env -i \\\n")
	for _, v := range env {
		fmt.Fprintf(&script, "\t'%s' \\\n", strings.ReplaceAll(v, "'", `'\''`))
	}
	fmt.Fprintf(&script, "\t%s/rabbitmqctl \"$@\"\n", bin)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, r.name+".conf"), []byte(conf), 0o644),
		os.WriteFile(filepath.Join(dir, "plugins"), []byte("["+strings.Join(o.Plugins, ",")+"].\n"), 0o644),
		os.WriteFile(r.ctl, []byte(script.String()), 0o755),
	)
}

// Close stops the node and removes all its files. It may be called more than
// once; the node cannot be started again.
func (r *RabbitMQ) Close() error { return r.box.close() }

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
func (r *RabbitMQNode) answers(ctx context.Context) error {
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
func (r *RabbitMQNode) URL() string { return "amqp://guest:guest@" + r.address + "/" }

// CtlPath is a script that runs rabbitmqctl for this node, for programs that
// are not this one. It needs the rights of the user that made the node.
func (r *RabbitMQNode) CtlPath() string { return r.ctl }

// Ctl runs rabbitmqctl with the arguments and returns what it printed. It takes
// one or two seconds.
func (r *RabbitMQNode) Ctl(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.ctl, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("run rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return out, nil
}

// Stop ends the node in order, with SIGTERM, and waits for its end. A stopped
// node is no error.
func (r *RabbitMQNode) Stop(ctx context.Context) error {
	return r.stop(ctx, syscall.SIGTERM)
}
