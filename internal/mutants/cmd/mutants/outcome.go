package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// outcome is what go test said.
type outcome struct {
	buildFailed    bool
	passed, failed []string // tests and subtests
	output         []string
}

// read takes the output of go test -json.
func read(stream []byte) (outcome, error) {
	var o outcome
	var running []string
	for events := json.NewDecoder(bytes.NewReader(stream)); ; {
		var e struct{ Action, Test, Output string }
		err := events.Decode(&e)
		if err == io.EOF {
			break
		}
		if err != nil {
			return o, fmt.Errorf("read the output of go test: %w", err)
		}
		switch e.Action {
		case "build-fail":
			o.buildFailed = true
		case "build-output", "output":
			o.output = append(o.output, e.Output)
		case "run":
			running = append(running, e.Test)
		case "pass", "fail", "skip":
			running = slices.DeleteFunc(running, func(name string) bool { return name == e.Test })
		}
		switch {
		case e.Test == "":
		case e.Action == "pass":
			o.passed = append(o.passed, e.Test)
		case e.Action == "fail":
			o.failed = append(o.failed, e.Test)
		}
	}
	// What had begun when a panic or the time limit ended the process.
	o.failed = append(o.failed, running...)
	return o, nil
}

// missing returns those of names that have neither passed nor failed.
func (o *outcome) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.Contains(o.passed, name) || slices.Contains(o.failed, name)
	})
}

// text is the end of what was printed.
func (o *outcome) text() string {
	const most = 30
	return strings.TrimSpace(strings.Join(o.output[max(0, len(o.output)-most):], ""))
}

// report prints the table. Its error says how many are not killed.
func report(w io.Writer, results []result) error {
	fmt.Fprintln(w, "| mutant | breaks | caught by | |\n|---|---|---|---|")
	left := 0
	for _, r := range results {
		fmt.Fprintf(w, "%s %s |\n", r.mutant.Row(), r.verdict)
		if r.verdict != killed {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d of %d mutants are not killed", left, len(results))
	}
	fmt.Fprintf(w, "\n%d mutants, all killed\n", len(results))
	return nil
}
