package main

import (
	"strings"
	"testing"
)

// TestHelp: the flags, their defaults and variables are a contract.
func TestHelp(t *testing.T) {
	for _, command := range []string{"", "setup", "run", "adopt", "replay", "skip", "teardown", "parked", "parked list", "parked show", "parked retry", "parked discard", "version"} {
		name := strings.TrimSpace("outboxd " + command)
		t.Run(name, func(t *testing.T) {
			r := call(t, nil, append(strings.Fields(command), "--help")...)
			r.expect(t, 0)
			golden(t, "help/"+strings.ReplaceAll(name, " ", "-")+".golden", r.out)
		})
	}
}

func TestUsageErrors(t *testing.T) {
	tests := []struct {
		name string
		args string
		want []string
	}{
		{"unknown command", "rnu", []string{`unknown command "rnu", did you mean run; see outboxd --help`}},
		{"unknown flag", "run --brokr x", []string{"unknown flag: --brokr, did you mean --broker; see outboxd run --help"}},
		{"unlike any flag", "setup --xyzzy", []string{"unknown flag: --xyzzy; see"}},
		{"no value", "run --broker", []string{"flag needs an argument: --broker"}},
		{"not a duration", "run --drain-timeout 5", []string{`invalid argument "5" for "--drain-timeout"`}},
		{"argument", "run now", []string{`unknown argument "now"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := call(t, nil, strings.Fields(tt.args)...)
			r.expect(t, 2, tt.want...)
			if r.out != "" {
				t.Errorf("standard output is for results: %s", r.out)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Run("variable", func(t *testing.T) {
		call(t, []string{"OUTBOXD_BROKER=ftp://x"}, "run").expect(t, 78, `--broker begins with "ftp"`)
	})
	t.Run("flag goes before variable", func(t *testing.T) {
		call(t, []string{"OUTBOXD_BROKER=ftp://x"}, "run", "--broker", "gopher://x").expect(t, 78, `--broker begins with "gopher"`)
	})
	t.Run("empty variable is none", func(t *testing.T) {
		call(t, []string{"OUTBOXD_DRAIN_TIMEOUT="}, "run").expect(t, 78, "--broker is missing")
	})
	t.Run("all bad variables at once", func(t *testing.T) {
		call(t, []string{"OUTBOXD_DRAIN_TIMEOUT=5", "OUTBOXD_FAIL_FAST=maybe"}, "run").
			expect(t, 2, "variable OUTBOXD_DRAIN_TIMEOUT: ", "variable OUTBOXD_FAIL_FAST: ")
	})
	t.Run("counts as given", func(t *testing.T) {
		call(t, []string{"OUTBOXD_EXCHANGE=x"}, "run", "--broker", "kafka://h").expect(t, 78, "--exchange is not for a kafka broker")
	})
}

func TestVersion(t *testing.T) {
	r := call(t, nil, "version")
	r.expect(t, 0)
	if !strings.HasPrefix(r.out, "outboxd ") || !strings.Contains(r.out, "built with go1.") {
		t.Errorf("%s", r.out)
	}
}
