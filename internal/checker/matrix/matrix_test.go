package matrix_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/checker/matrix"
)

var results = []matrix.Result{
	{Group: "PostgreSQL", ID: "F20", Fault: "slot dropped", How: "`a | b`", Expect: "exit 78", Passed: true, Events: 1000, Duplicates: 2, Allowed: 5, Recovery: 1234 * time.Millisecond, PeakRSS: 40<<20 + 1},
	{Group: "PostgreSQL", ID: "F9b", Fault: "second"},
	{Group: "PostgreSQL", ID: "F9", Fault: "first", Elsewhere: "TestFirst"},
	{Group: "Relay", ID: "F1", Fault: "killed", Passed: true, Gap: true},
	{Group: "Relay", ID: "F9", Fault: "reload", Left: "there is none"},
}

func TestAppendAndRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report")
	for _, r := range results {
		if err := matrix.Append(file, r); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := matrix.Read(f)
	if err != nil || !reflect.DeepEqual(got, results) {
		t.Errorf("read %v, %v, want %v", got, err, results)
	}
	if _, err := matrix.Read(strings.NewReader("{}\nnonsense\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want one of line 2", err)
	}
}

// TestWrite: groups in order, rows by number, and what failed is not hidden.
func TestWrite(t *testing.T) {
	var page strings.Builder
	if err := matrix.Write(&page, results, 2); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(page.String(), "The last runs: ")
	want := `2 cores, 2 of 3 rows held.

## Relay

| | fault | injected by | expected | result | duplicates | recovery | RSS |
|---|---|---|---|---|---|---|---|
| F1 | killed |  |  | held, gap named | 0 of 0 (0) |  |  |

## PostgreSQL

| | fault | injected by | expected | result | duplicates | recovery | RSS |
|---|---|---|---|---|---|---|---|
| F9 | first |  |  | ` + "`TestFirst`" + ` |  |  |  |
| F9b | second |  |  | **FAILED** | 0 of 0 (0) |  |  |
| F20 | slot dropped | ` + "`a \\| b`" + ` | exit 78 | held | 2 of 1000 (5) | 1.2 s | 40 MiB |

## Not injected

| | fault | why not |
|---|---|---|
| F9 | reload | there is none |
`
	if got != want {
		t.Errorf("page:\n%s\nwant:\n%s", got, want)
	}
}
