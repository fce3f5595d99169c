package matrix

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// groups is their order on the page. Others follow by name.
var groups = []string{"Relay", "Crash points", "PostgreSQL", "Network", "Kafka", "RabbitMQ", "Mixed"}

type group struct {
	Name string
	Rows []Result
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"cell": cell, "outcome": outcome, "duplicates": duplicates, "recovery": recovery, "rss": rss,
}).Parse(`# What breaks, and what happens then

<!-- Written by make matrix and make matrix-long. Do not edit. -->

Each row is a fault that was injected while writers committed and rolled back, into the program as it is built, between real
services, with the minimal roles that ` + "`outboxd setup`" + ` grants. Afterwards a checker (` + "`internal/checker`" + `) compares what was
committed with what the broker holds. A row holds only if nothing was lost, nothing invented, nothing out of order and no byte
changed, if duplicates stayed within the bound of guarantee 4 for that fault (see [DESIGN.md](../DESIGN.md)), if the relay said
what the row expects, stayed below 128 MiB and ended with exit code 0 on SIGTERM, and, with Kafka, if the slot had never
confirmed what the broker did not yet hold, whenever an onlooker compared the two. Crash points are put into the program by an
overlay of its source (` + "`internal/crashpoint`" + `); the relay that lives in the end is the program as it is.

Run it yourself: ` + "`make matrix`" + ` (about ten minutes on two cores; it needs what ` + "`make test`" + ` needs),
` + "`make matrix-long`" + ` for the rows that take longer. Both write this page. A single row:
` + "`make test PACKAGES=./cmd/outboxd/e2e TESTFLAGS='-run TestMatrixRelay/F1_'`" + `.

- **gap named**: the fault makes a gap, at which the relay stops with an error that names it. Somebody accepted the gap as that
  error says; what was written in it is in the table, and was allowed to be missing at the broker.
- **duplicates**: deliveries beyond the first, of how many events, and how many are allowed.
- **recovery**: from the end of the fault, or where nothing ends it from the fault, until an event arrived that was committed
  after it; the longest, where a row repeats its fault. It includes the backlog and, where the row starts a process or a server,
  that start.
- **RSS**: the largest resident set of a relay in the row.

The last runs: {{.Cores}} cores, {{.Held}} of {{.Run}} rows held.
{{range .Groups}}
## {{.Name}}

| | fault | injected by | expected | result | duplicates | recovery | RSS |
|---|---|---|---|---|---|---|---|
{{range .Rows}}| {{.ID}} | {{cell .Fault}} | {{cell .How}} | {{cell .Expect}} | {{outcome .}} | {{duplicates .}} | {{recovery .}} | {{rss .}} |
{{end}}{{end}}{{with .Left}}
## Not injected

| | fault | why not |
|---|---|---|
{{range .}}| {{.ID}} | {{cell .Fault}} | {{cell .Left}} |
{{end}}{{end}}`))

// Write writes the page. cores says on how many the results were measured.
func Write(w io.Writer, results []Result, cores int) error {
	data := struct {
		Cores, Held, Run int
		Groups           []group
		Left             []Result
	}{Cores: cores}
	results = slices.Clone(results)
	slices.SortStableFunc(results, compare)
	for _, r := range results {
		if r.Left != "" {
			data.Left = append(data.Left, r)
			continue
		}
		if r.Elsewhere == "" {
			data.Run++
			if r.Passed {
				data.Held++
			}
		}
		if n := len(data.Groups); n == 0 || data.Groups[n-1].Name != r.Group {
			data.Groups = append(data.Groups, group{Name: r.Group})
		}
		last := &data.Groups[len(data.Groups)-1]
		last.Rows = append(last.Rows, r)
	}
	return page.Execute(w, data)
}

// compare orders by group, then by number, then by what follows the number.
func compare(a, b Result) int {
	rank := func(r Result) int {
		if i := slices.Index(groups, r.Group); i >= 0 {
			return i
		}
		return len(groups)
	}
	letterA, numberA, restA := split(a.ID)
	letterB, numberB, restB := split(b.ID)
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Group, b.Group),
		cmp.Compare(letterA, letterB), cmp.Compare(numberA, numberB), cmp.Compare(restA, restB))
}

var number = regexp.MustCompile(`\d+`)

func split(id string) (letter string, n int, rest string) {
	at := number.FindStringIndex(id)
	if at == nil {
		return id, 0, ""
	}
	n, _ = strconv.Atoi(id[at[0]:at[1]])
	return id[:at[0]], n, id[at[1]:]
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func outcome(r Result) string {
	switch {
	case r.Elsewhere != "":
		return "`" + r.Elsewhere + "`"
	case r.Passed && r.Gap:
		return "held, gap named"
	case r.Passed:
		return "held"
	}
	return "**FAILED**"
}

func duplicates(r Result) string {
	if r.Elsewhere != "" {
		return ""
	}
	return fmt.Sprintf("%d of %d (%d)", r.Duplicates, r.Events, r.Allowed)
}

func recovery(r Result) string {
	if r.Recovery == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f s", r.Recovery.Round(100*time.Millisecond).Seconds())
}

func rss(r Result) string {
	if r.PeakRSS == 0 {
		return ""
	}
	return fmt.Sprintf("%d MiB", r.PeakRSS>>20)
}
