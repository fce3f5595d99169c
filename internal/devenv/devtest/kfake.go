package devtest

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outboxd/outboxd/internal/devenv"
)

// Kfake starts a fake cluster for this test alone, with kfake's options.
func Kfake(t testing.TB, options ...kfake.Opt) *devenv.Kfake {
	t.Helper()
	k, err := devenv.StartKfake(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}
