// Package mutants holds seeded defects: small changes to the code, each of
// which breaks a promise of DESIGN.md or SECURITY.md, and the tests that must
// notice. `make mutants` applies them one at a time; the working tree is never
// touched.
//
// A mutant is a file in testdata, a header and a diff without line numbers:
//
//	breaks: guarantee 1: a position is confirmed one byte too far
//	file: cdc/queue.go
//	caught by: ./cdc TestQueueAgainstOracle
//
//	 		if e.commit == 0 {
//	-			q.done.confirm = max(q.done.confirm, e.mark)
//	+			q.done.confirm = max(q.done.confirm, e.mark+1)
//
// Several tests may be named; each of them alone must notice. They should be
// the narrowest that there are.
package mutants

import (
	"embed"
	"fmt"
	"path"
	"strings"

	"github.com/outboxd/outboxd/internal/overlay"
)

//go:embed testdata/*.mutant
var files embed.FS

// Mutant is one seeded defect.
type Mutant struct {
	Name    string   // of its file, without the suffix
	Breaks  string   // which promise, and how
	File    string   // that it changes, slash-separated from the repository's root
	Package string   // whose tests must notice, from there too: ./cdc
	Tests   []string // their names; a subtest as go test prints it
	// Old and New are whole lines, the last one ended too.
	Old, New string
}

// List returns all mutants, by name.
func List() ([]Mutant, error) {
	names, err := files.ReadDir("testdata")
	if err != nil {
		return nil, err
	}
	var all []Mutant
	for _, entry := range names {
		text, err := files.ReadFile(path.Join("testdata", entry.Name()))
		if err != nil {
			return nil, err
		}
		m, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		m.Name = strings.TrimSuffix(entry.Name(), ".mutant")
		all = append(all, m)
	}
	return all, nil
}

func parse(text string) (Mutant, error) {
	var m Mutant
	header, diff, _ := strings.Cut(text, "\n\n")
	for line := range strings.Lines(header) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "breaks":
			m.Breaks = value
		case "file":
			m.File = value
		case "caught by":
			fields := strings.Fields(value)
			if len(fields) > 0 {
				m.Package, m.Tests = fields[0], fields[1:]
			}
		default:
			return m, fmt.Errorf("unknown key %q; there are breaks, file and caught by", key)
		}
	}
	if m.Breaks == "" || m.File == "" || len(m.Tests) == 0 {
		return m, fmt.Errorf("breaks, file and caught by (a package and its tests) must be there")
	}
	for line := range strings.Lines(diff) {
		switch line[0] {
		case '\n':
			m.Old, m.New = m.Old+line, m.New+line
		case ' ':
			m.Old, m.New = m.Old+line[1:], m.New+line[1:]
		case '-':
			m.Old += line[1:]
		case '+':
			m.New += line[1:]
		default:
			return m, fmt.Errorf("a line of the diff begins with %q; it must be a blank, - or +", line[0])
		}
	}
	if m.Old == "" || m.Old == m.New {
		return m, fmt.Errorf("the diff changes nothing")
	}
	return m, nil
}

// Apply returns source, the text of m.File, with the defect in it. It fails
// unless the diff fits exactly one place.
func (m Mutant) Apply(source string) (string, error) {
	at, fits := overlay.Find(source, m.Old)
	if fits != 1 {
		return "", fmt.Errorf("the diff of mutant %s fits %d places of %s, want one", m.Name, fits, m.File)
	}
	return source[:at] + m.New + source[at+len(m.Old):], nil
}

// Row is m in the table of DESIGN.md, without the end of the line.
func (m Mutant) Row() string {
	return fmt.Sprintf("| %s | %s | `%s` |", m.Name, m.Breaks, strings.Join(m.Tests, "`, `"))
}
