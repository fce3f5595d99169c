package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/outboxd/outboxd/internal/mutants"
	"github.com/outboxd/outboxd/internal/overlay"
)

// testTimeout bounds one run of go test. It is generous: a mutant is expected
// to fail a test, not to hang it.
const testTimeout = 3 * time.Minute

// lab runs tests on changed code. The changes are in a directory of its own,
// and go test is told to read them in place of the files that they change.
type lab struct {
	root, dir string
}

func newLab() (*lab, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module: %w", err)
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return nil, err
	}
	return &lab{root: filepath.Dir(strings.TrimSpace(string(out))), dir: dir}, nil
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

// healthy runs the tests of all mutants on the code as it is.
func (l *lab) healthy(ctx context.Context, all []mutants.Mutant, parallel int) error {
	tests := make(map[string][]string)
	for _, m := range all {
		tests[m.Package] = append(tests[m.Package], m.Tests...)
	}
	var group errgroup.Group
	group.SetLimit(parallel)
	for pkg, names := range tests {
		slices.Sort(names)
		names = slices.Compact(names)
		group.Go(func() error {
			o, err := l.test(ctx, "", pkg, names)
			if err == nil && (o.buildFailed || len(o.failed) > 0) {
				err = errors.New(o.text())
			}
			if missing := o.missing(names); err == nil && len(missing) > 0 {
				err = fmt.Errorf("no such tests: %s", strings.Join(missing, ", "))
			}
			if err != nil {
				return fmt.Errorf("the tests of %s do not pass without a mutant: %w", pkg, err)
			}
			return nil
		})
	}
	return group.Wait()
}

type verdict string

const (
	killed   verdict = "killed"
	survived verdict = "SURVIVED"
	broken   verdict = "BROKEN"
)

// result is what became of one mutant.
type result struct {
	mutant  mutants.Mutant
	verdict verdict
	why     string
}

// try runs the tests of m with its defect in the code. Each must fail.
func (l *lab) try(ctx context.Context, m mutants.Mutant) result {
	overlay, err := l.overlay(m)
	if err != nil {
		return result{m, broken, err.Error()}
	}
	began := time.Now()
	o, err := l.test(ctx, overlay, m.Package, m.Tests)
	switch {
	case err != nil:
		return result{m, broken, err.Error()}
	case o.buildFailed:
		return result{m, broken, "it does not compile: " + o.text()}
	case len(o.missing(m.Tests)) > 0:
		return result{m, broken, "tests did not run: " + o.text()}
	}
	for _, name := range m.Tests {
		if !slices.Contains(o.failed, name) {
			return result{m, survived, name + " does not notice: " + m.Breaks}
		}
	}
	return result{m, killed, fmt.Sprintf("in %.1f s", time.Since(began).Seconds())}
}

// overlay writes the changed file, and returns what go test is to be given.
func (l *lab) overlay(m mutants.Mutant) (string, error) {
	path := filepath.Join(l.root, filepath.FromSlash(m.File))
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	changed, err := m.Apply(string(source))
	if err != nil {
		return "", err
	}
	return overlay.Write(filepath.Join(l.dir, m.Name), map[string]string{path: changed})
}

// test runs the named tests of pkg. Its error is one of running them at all.
func (l *lab) test(ctx context.Context, overlay, pkg string, names []string) (outcome, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-vet=off", "-count=1", "-overlay="+overlay,
		"-timeout="+testTimeout.String(), "-run="+pattern(names), pkg)
	cmd.Dir = l.root
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return outcome{}, fmt.Errorf("run go test: %w", err)
	}
	return read(out)
}

// pattern matches the named tests and no others.
func pattern(names []string) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
	}
	return strings.Join(all, "|")
}
