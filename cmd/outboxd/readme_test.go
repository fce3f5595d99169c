package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands are all commands below a command.
func commands(parent *cobra.Command) (all []*cobra.Command) {
	for _, cmd := range parent.Commands() {
		all = append(append(all, cmd), commands(cmd)...)
	}
	return all
}

// TestReadmeIsComplete: every flag and its variable, every metric and every
// command stands in the README, and it names no flag that does not exist.
func TestReadmeIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	flags := map[string]bool{"help": true}
	for _, cmd := range commands(newRoot(inputs{}, streams{})) {
		if !strings.Contains(readme, cmd.CommandPath()) {
			t.Errorf("README does not show %s", cmd.CommandPath())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			flags[f.Name] = true
			if f.Name != "help" && (!strings.Contains(readme, "`--"+f.Name+"`") || !strings.Contains(readme, "`"+variable(f.Name)+"`")) {
				t.Errorf("README does not list --%s and %s", f.Name, variable(f.Name))
			}
		})
	}
	for _, m := range regexp.MustCompile("`--([a-z][a-z-]+)").FindAllStringSubmatch(readme, -1) {
		if !flags[m[1]] {
			t.Errorf("README names --%s, which no command has", m[1])
		}
	}
	golden, err := os.ReadFile("../../testdata/metrics/metrics.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^# HELP outboxd_(\w+)`).FindAllStringSubmatch(string(golden), -1) {
		if !strings.Contains(readme, "`"+m[1]) {
			t.Errorf("README does not list the metric outboxd_%s", m[1])
		}
	}
}
