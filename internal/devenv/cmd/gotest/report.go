package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of the build-output events
	Test       string
	Output     string
}

// report turns events into what a reader wants to see.
type report struct {
	w       io.Writer
	output  map[[2]string][]string // by package and test, until the outcome is known
	passed  int
	failed  []string
	skipped []string
}

func newReport(w io.Writer) *report {
	return &report{w: w, output: make(map[[2]string][]string)}
}

// read prints the packages of a stream of events as they end. What is no event,
// such as the word of a toolchain in distress, is printed as it is.
func (r *report) read(stream io.Reader) error {
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil {
				r.add(e)
			} else {
				fmt.Fprint(r.w, line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the output of go test: %w", err)
		}
	}
}

func (r *report) add(e event) {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.w, e.Output)
	case "output":
		if e.Test == "" && e.Output == "PASS\n" || strings.HasPrefix(e.Output, "=== ") {
			return
		}
		r.output[key] = append(r.output[key], e.Output)
	case "pass", "fail", "skip":
		r.end(e, r.output[key])
		delete(r.output, key)
	}
}

// end takes the outcome of a test, or of a package, which has no Test.
func (r *report) end(e event, output []string) {
	switch {
	case e.Test == "":
		r.endPackage(e)
	case e.Action == "pass":
		r.passed++
		return
	case e.Action == "fail":
		r.failed = append(r.failed, e.Package+"."+e.Test)
	case e.Action == "skip":
		r.skipped = append(r.skipped, e.Package+"."+e.Test)
	}
	r.print(output)
}

// endPackage looks for a failure that no test has reported: tests that had
// begun when a panic or the time limit ended the process, a build that broke, a
// TestMain. A package without tests ends with skip and is none of our business.
func (r *report) endPackage(e event) {
	if e.Action != "fail" {
		return
	}
	known := len(r.failed)
	for key, output := range r.output {
		if key[0] == e.Package && key[1] != "" {
			r.failed = append(r.failed, e.Package+"."+key[1])
			r.print(output)
			delete(r.output, key)
		}
	}
	if len(r.failed) == known && !slices.ContainsFunc(r.failed, func(name string) bool {
		return strings.HasPrefix(name, e.Package+".")
	}) {
		r.failed = append(r.failed, e.Package)
	}
}

func (r *report) print(output []string) {
	for _, line := range output {
		fmt.Fprint(r.w, line)
	}
}

func (r *report) summarise() {
	for _, name := range r.failed {
		fmt.Fprintln(r.w, "failed: ", name)
	}
	for _, name := range r.skipped {
		fmt.Fprintln(r.w, "skipped:", name)
	}
	fmt.Fprintf(r.w, "%d passed, %d failed, %d skipped\n", r.passed, len(r.failed), len(r.skipped))
}

// good reports whether something ran and nothing failed or was skipped.
func (r *report) good() bool {
	return r.passed > 0 && len(r.failed) == 0 && len(r.skipped) == 0
}
