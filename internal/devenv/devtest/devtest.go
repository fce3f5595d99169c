package devtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// startTimeout bounds the start of a shared service, downloads included.
const startTimeout = 5 * time.Minute

// shared holds the services of this test process. It is package state because
// that is what is shared: the testing package gives TestMain and the tests no
// other way to meet.
var shared registry

// registry starts each service once and remembers it, or why it did not start.
type registry struct {
	mu      sync.Mutex
	entries map[string]*entry
}

type entry struct {
	once    sync.Once
	service io.Closer
	err     error
}

// get returns the service of that name, started by the first call.
func get[S io.Closer](t testing.TB, r *registry, name string, start func(context.Context) (S, error)) S {
	t.Helper()
	r.mu.Lock()
	if r.entries == nil {
		r.entries = make(map[string]*entry)
	}
	e := r.entries[name]
	if e == nil {
		e = new(entry)
		r.entries[name] = e
	}
	r.mu.Unlock()

	e.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		var service S
		if service, e.err = start(ctx); e.err == nil {
			e.service = service
		}
	})
	if e.err != nil {
		t.Fatalf("%s is needed (`make services` installs what is missing): %v", name, e.err)
	}
	return e.service.(S)
}

func (r *registry) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, e := range r.entries {
		if e.service != nil {
			errs = append(errs, e.service.Close())
		}
	}
	return errors.Join(errs...)
}

// Main runs the tests of a package, stops the services that they started and
// exits. Without it the services end with the process, unobserved.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for packages that clean up more: it returns the exit code.
func Run(m *testing.M) int {
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "stop services:", err)
		code = max(code, 1)
	}
	return code
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// Name returns a name that no other test has, from the test's own: lower-case
// letters, digits and underscores, at most 40 bytes, a letter first. It fits
// slots, roles, databases, topics, groups, queues and exchanges. Each call
// gives another one.
func Name(t testing.TB) string {
	name := notInNames.ReplaceAllString(strings.ToLower(t.Name()), "_")
	return name[:min(len(name), 31)] + "_" + strings.ToLower(rand.Text()[:8])
}
