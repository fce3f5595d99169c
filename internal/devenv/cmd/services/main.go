// Command services starts throw-away services, runs a command with the
// OUTBOXD_TEST_ variables that name them, and takes them down:
//
//	go run ./internal/devenv/cmd/services go test ./...
//	go run ./internal/devenv/cmd/services -only postgres,kafka bash
//
// A service whose variable is set already is not started. The exit code is the
// command's. With -fetch it only fills the cache, without -fetch it needs a
// command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/outboxd/outboxd/internal/devenv"
)

const all = "postgres,kafka,rabbitmq"

func main() {
	only := flag.String("only", all, "services to start or fetch, with commas")
	fetch := flag.Bool("fetch", false, "download what they need, every PostgreSQL version, and end")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: services [-only LIST] COMMAND [ARGUMENT…] | services [-only LIST] -fetch")
		flag.PrintDefaults()
	}
	flag.Parse()
	names := strings.Split(*only, ",")
	for _, name := range names {
		if !slices.Contains(strings.Split(all, ","), name) {
			fmt.Fprintf(os.Stderr, "services: unknown service %q; there are %s\n", name, all)
			os.Exit(2)
		}
	}
	if *fetch == (flag.NArg() > 0) {
		flag.Usage()
		os.Exit(2)
	}
	code, err := run(names, *fetch, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "services:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(names []string, fetch bool, command []string) (code int, err error) {
	// The command gets the terminal's signals itself; we outlive it.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if fetch {
		var versions []string
		if slices.Contains(names, "postgres") {
			versions = devenv.PostgresVersions()
		}
		return 0, devenv.Prefetch(ctx, versions, slices.Contains(names, "kafka"))
	}
	env, stop, err := start(ctx, names)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return 1, err
	}
	return execute(ctx, command, env)
}

// execute runs the command to its end. A signal to this program alone is passed
// on.
func execute(ctx context.Context, command, env []string) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}
