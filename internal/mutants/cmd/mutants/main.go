// Command mutants applies the seeded defects of package mutants one at a time
// and runs the tests that must notice:
//
//	go run ./internal/mutants/cmd/mutants -run '^kafka-'
//
// It must be run in the repository. First the tests are run on the code as it
// is: a test that fails anyway proves nothing. A mutant is killed when a test
// that it names fails; a defect that does not compile, or a test that does not
// run, is broken. Mutants that live, and why broken ones are, are explained on
// standard error; standard output is a table in Markdown. The exit code is 0 if
// all were killed, else 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/outboxd/outboxd/internal/mutants"
)

func main() {
	filter := flag.String("run", "", "only mutants whose names match this regular expression")
	parallel := flag.Int("p", runtime.NumCPU(), "how many at a time")
	flag.Parse()
	// The runs of go test that are under way end with their tests' services.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *filter, *parallel)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, filter string, parallel int) error {
	chosen, err := choose(filter)
	if err != nil {
		return err
	}
	l, err := newLab()
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.healthy(ctx, chosen, parallel); err != nil {
		return err
	}
	results := make([]result, len(chosen))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, m := range chosen {
		group.Go(func() error {
			results[i] = l.try(ctx, m)
			fmt.Fprintf(os.Stderr, "%-8s %s %s\n", results[i].verdict, m.Name, results[i].why)
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return report(os.Stdout, results)
}

// choose returns the mutants whose names match filter.
func choose(filter string) ([]mutants.Mutant, error) {
	match, err := regexp.Compile(filter)
	if err != nil {
		return nil, fmt.Errorf("read -run: %w", err)
	}
	all, err := mutants.List()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(m mutants.Mutant) bool { return !match.MatchString(m.Name) })
	if len(all) == 0 {
		return nil, fmt.Errorf("no mutant has a name that matches %q", filter)
	}
	return all, nil
}
