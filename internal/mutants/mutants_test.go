package mutants

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// A mutant that the code has grown away from, or whose test was renamed, would
// prove nothing.
func TestMutantsFitTheCode(t *testing.T) {
	all, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		source, err := os.ReadFile(filepath.Join(root, m.File))
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
			continue
		}
		if _, err := m.Apply(string(source)); err != nil {
			t.Error(err)
		}
		tests := testsOf(t, m.Package)
		for _, name := range m.Tests {
			function, _, _ := strings.Cut(name, "/")
			if !strings.Contains(tests, "\nfunc "+function+"(t *testing.T)") {
				t.Errorf("%s: there is no %s in %s", m.Name, function, m.Package)
			}
		}
	}
}

// The table in DESIGN.md is made of what stands in the files.
func TestDesignListsMutants(t *testing.T) {
	all, err := List()
	if err != nil {
		t.Fatal(err)
	}
	table := "| mutant | breaks | caught by |\n|---|---|---|\n"
	for _, m := range all {
		table += m.Row() + "\n"
	}
	design, err := os.ReadFile(filepath.Join(root, "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(design), "\n\n"+table+"\n") {
		t.Errorf("DESIGN.md lacks this table, or has another:\n%s", table)
	}
}

// testsOf returns the text of the tests of a package.
func testsOf(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}

const good = `breaks: guarantee 1: too far
file: a.go
caught by: ./a TestA TestB/c

 	if x {
-		one()

-		two()
+		three()
 	}
`

func TestParse(t *testing.T) {
	m, err := parse(good)
	if err != nil {
		t.Fatal(err)
	}
	m.Name = "m"
	const (
		old     = "\tif x {\n\t\tone()\n\n\t\ttwo()\n\t}\n"
		changed = "\tif x {\n\n\t\tthree()\n\t}\n"
	)
	if m.Old != old || m.New != changed {
		t.Errorf("read %q\nand %q", m.Old, m.New)
	}
	if got, want := m.Row(), "| m | guarantee 1: too far | `TestA`, `TestB/c` |"; got != want {
		t.Errorf("row %s, want %s", got, want)
	}
	if got, err := m.Apply("before\n" + old + "after\n"); err != nil || got != "before\n"+changed+"after\n" {
		t.Errorf("applied: %q, %v", got, err)
	}
	for _, source := range []string{"", old + old, "not at the start of a line" + old, "no end"} {
		if _, err := m.Apply(source); err == nil {
			t.Errorf("it applies to %q", source)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	header, diff, _ := strings.Cut(good, "\n\n")
	for name, text := range map[string]string{
		"unknown key":     strings.Replace(good, "breaks:", "brakes:", 1),
		"no promise":      strings.Replace(good, "breaks: guarantee 1: too far\n", "", 1),
		"no test":         strings.Replace(good, " TestA TestB/c", "", 1),
		"no file":         strings.Replace(good, "file: a.go\n", "", 1),
		"line of no kind": strings.Replace(good, " \tif x {", "\tif x {", 1),
		"no diff":         header + "\n",
		"no change":       header + "\n\n-\tone()\n+\tone()\n",
		"no header":       diff,
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("%s is accepted:\n%s", name, text)
		}
	}
}
