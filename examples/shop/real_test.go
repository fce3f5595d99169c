//go:build !embedded

package main

import (
	"regexp"
	"testing"
)

func TestReal(t *testing.T) {
	t.Parallel()
	said := wantClean(t, start(t, "-brokers", "real", "-plain", "-duration", "4s"), "--config outboxd.yaml")
	for _, want := range []string{
		`\nnotification +[1-9][0-9]* +[1-9][0-9]* +0 +0 +0 +\d+\n`,
	} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("want %q in\n%s", want, said)
		}
	}
}
