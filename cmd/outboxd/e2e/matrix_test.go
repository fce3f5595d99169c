//go:build !embedded

package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/matrix"
)

// fault is a row of the matrix: something that breaks under load, and what a
// user then sees.
type fault struct {
	id     string // F1 to F68, with a letter where one fault has several rows
	name   string
	how    string // how it is injected
	expect string
	// duplicates bounds what may come twice, and stragglers what may then come
	// behind a later event of its domain: guarantee 4 for this fault.
	duplicates, stragglers int
	// arrange chooses site, end, flags or load before the relay starts. What
	// it leaves alone is a database on the shared server, topics of the shared
	// Kafka, and the load of the matrix. A relay that it starts is the relay.
	arrange func(*faultRun)
	// inject breaks something, looks at what the relay says meanwhile, mends
	// it and calls healed. It runs while writers write and events flow.
	inject func(*faultRun)

	// alone keeps a row from running beside others, with which it shares what
	// it breaks.
	alone bool

	// elsewhere names, instead of inject, the tests that do it: "TestA, TestB",
	// behind their directory and a space if it is another.
	elsewhere string
	left      string // instead of inject: why nothing does
}

// maxRSS bounds the resident set of a relay in every row.
const maxRSS = 128 << 20

// runMatrix runs the rows of a group: as parallel tests, but for those that
// must be alone.
func runMatrix(t *testing.T, group string, rows []fault) {
	for _, row := range rows {
		result := matrix.Result{Group: group, ID: row.id, Fault: row.name, How: row.how, Expect: row.expect, Elsewhere: row.elsewhere, Left: row.left, Allowed: row.duplicates}
		switch {
		case row.inject != nil:
			t.Run(row.id+" "+row.name, func(t *testing.T) {
				if !row.alone {
					t.Parallel()
				}
				defer func() {
					result.Passed = !t.Failed()
					report(t, result)
				}()
				row.run(t, &result)
			})
			continue
		case row.elsewhere != "":
			row.checkTests(t)
		}
		report(t, result)
	}
}

// run injects the fault and judges what came of it.
func (row *fault) run(t *testing.T, result *matrix.Result) {
	f := &faultRun{t: t, stopLoad: func() {}}
	defer func() { f.stopLoad() }()
	f.begin(row.arrange)
	f.end.watch(f.site, func() {
		row.inject(f)
		if f.recovery == 0 {
			f.healed()
		}
	})
	v, rss := f.finish(), f.peak()
	result.Events, result.Duplicates, result.Recovery, result.PeakRSS, result.Gap = v.Written, v.Duplicates, f.recovery, rss, f.gaps != nil
	if !v.OK(row.duplicates, row.stragglers) {
		t.Errorf("at most %d duplicates and %d stragglers allowed\n%s", row.duplicates, row.stragglers, v)
	}
	if rss > maxRSS {
		t.Errorf("peak RSS %d MiB, %d allowed", rss>>20, maxRSS>>20)
	}
	first, _, _ := strings.Cut(v.String(), "\n")
	t.Logf("recovery %s, peak RSS %d MiB, %s", f.recovery.Round(time.Millisecond), rss>>20, first)
}

// checkTests fails when a test that the row names is not there.
func (row *fault) checkTests(t *testing.T) {
	t.Helper()
	pattern, names := "*_test.go", row.elsewhere
	if dir, rest, ok := strings.Cut(row.elsewhere, " "); ok && !strings.HasPrefix(dir, "Test") {
		pattern, names = filepath.Join("../../..", dir, pattern), rest
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for _, name := range strings.Split(names, ", ") {
		if !strings.Contains(all.String(), "\nfunc "+name+"(") {
			t.Errorf("%s: there is no %s in %s", row.id, name, pattern)
		}
	}
}

// report appends the result to the file that the environment names.
func report(t *testing.T, r matrix.Result) {
	t.Helper()
	if file := os.Getenv(matrix.ReportVar); file != "" {
		if err := matrix.Append(file, r); err != nil {
			t.Error(err)
		}
	}
}
