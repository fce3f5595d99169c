package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build builds the command, whose exit codes and output are its interface.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "services")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return bin
}

// run runs it with only the given variables of OUTBOXD_TEST_.
func run(t *testing.T, bin string, vars []string, args ...string) (code int, stdout string) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "OUTBOXD_TEST_") || strings.HasPrefix(v, "OUTBOXD_TEST_CACHE=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, vars...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestServices(t *testing.T) {
	bin := build(t)
	const show = `echo "database=$OUTBOXD_TEST_DATABASE kafka=$OUTBOXD_TEST_KAFKA"`
	tests := []struct {
		name string
		vars []string
		args []string
		code int
		want string // the output begins with it
	}{
		{"starts what is asked for", nil, []string{"-only", "postgres", "sh", "-c", show}, 0, "database=postgres://postgres:postgres@127.0.0.1:"},
		{"leaves what is there", []string{"OUTBOXD_TEST_DATABASE=there"}, []string{"-only", "postgres", "sh", "-c", show}, 0, "database=there kafka=\n"},
		{"returns the exit code", nil, []string{"-only", "postgres", "sh", "-c", "exit 7"}, 7, ""},
		{"fails with a signal", nil, []string{"-only", "postgres", "sh", "-c", "kill -KILL $$"}, 1, ""},
		{"wants a command", nil, []string{"-only", "postgres"}, 2, ""},
		{"wants no command beside -fetch", nil, []string{"-fetch", "true"}, 2, ""},
		{"knows its services", nil, []string{"-only", "mysql", "true"}, 2, ""},
		{"names a missing command", nil, []string{"-only", "postgres", "/no/such/command"}, 1, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, out := run(t, bin, tt.vars, tt.args...)
			if code != tt.code || !strings.HasPrefix(out, tt.want) {
				t.Errorf("exit code %d, output %q; want %d, %q", code, out, tt.code, tt.want)
			}
		})
	}
}
