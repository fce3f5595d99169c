// Package matrix keeps the results of the fault matrix, one line of JSON a
// row, and writes the page that shows them.
package matrix

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// ReportVar names the variable that holds the file to which results are
// appended.
const ReportVar = "OUTBOXD_MATRIX_REPORT"

// Result is what one row showed.
type Result struct {
	Group  string `json:"group"`
	ID     string `json:"id"`
	Fault  string `json:"fault"`
	How    string `json:"how,omitempty"`
	Expect string `json:"expect,omitempty"`
	// Elsewhere names the test that injects the fault, where it is not a row.
	Elsewhere string `json:"elsewhere,omitempty"`
	// Left says why the fault is not injected at all.
	Left string `json:"left,omitempty"`

	Passed bool `json:"passed"`
	// Gap: the fault made a gap, at which the relay stopped and which somebody
	// accepted. What was written in it may be missing at the broker.
	Gap bool `json:"gap,omitempty"`
	// Events is how many were committed, Duplicates how many deliveries were
	// beyond the first, Allowed how many may be.
	Events     int `json:"events"`
	Duplicates int `json:"duplicates"`
	Allowed    int `json:"allowed"`
	// Recovery is the time from the end of the fault until an event arrived
	// that was committed after it. 0: not measured.
	Recovery time.Duration `json:"recovery"`
	// PeakRSS is the largest resident set that a relay of the row had, in
	// bytes. 0: not measured.
	PeakRSS int64 `json:"peak_rss"`
}

// Append adds the result to the file as one line. Several processes may do so
// at once.
func Append(file string, r Result) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("append to %s: %w", file, err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// Read reads what Append wrote.
func Read(r io.Reader) ([]Result, error) {
	var all []Result
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var one Result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		all = append(all, one)
	}
	return all, lines.Err()
}
