package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/mutants"
)

// module is one with a test for a test, which passes.
func module(t *testing.T) *lab {
	t.Helper()
	l := &lab{root: t.TempDir(), dir: t.TempDir()}
	for name, text := range map[string]string{
		"go.mod": "module a\n\ngo 1.24\n",
		"a.go":   "package a\n\nfunc two() int {\n\treturn 2\n}\n",
		"a_test.go": `package a

import "testing"

func TestTwo(t *testing.T) {
	t.Run("is more than one", func(t *testing.T) {
		if two() < 2 {
			t.Error(two())
		}
	})
}

func TestTwoIsBelowThree(t *testing.T) {
	if two() > 2 {
		t.Error(two())
	}
}
`,
	} {
		if err := os.WriteFile(filepath.Join(l.root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestTry(t *testing.T) {
	l := module(t)
	tests := []struct {
		name, body, tests string
		want              verdict
	}{
		{"killed", "\treturn 1\n", "TestTwo", killed},
		{"killed in a subtest", "\treturn 1\n", "TestTwo/is_more_than_one", killed},
		{"killed by a panic", "\tpanic(1)\n", "TestTwo", killed},
		{"survives", "\treturn 3\n", "TestTwo", survived},
		{"survives one of two", "\treturn 3\n", "TestTwoIsBelowThree TestTwo", survived},
		{"does not compile", "\treturn \"\"\n", "TestTwo", broken},
		{"test not there", "\treturn 1\n", "TestThree", broken},
		{"subtest not there", "\treturn 1\n", "TestTwo/is_less", broken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mutants.Mutant{Name: "m", File: "a.go", Package: ".", Tests: strings.Fields(tt.tests), Old: "\treturn 2\n", New: tt.body}
			if got := l.try(t.Context(), m); got.verdict != tt.want {
				t.Errorf("%s: %s; want %s", got.verdict, got.why, tt.want)
			}
		})
	}
	if got := l.try(t.Context(), mutants.Mutant{File: "a.go", Old: "\treturn 5\n"}); got.verdict != broken {
		t.Errorf("a diff that does not fit: %s", got.verdict)
	}
}

// A test that fails on the code as it is, or is not there, kills everything.
func TestHealthy(t *testing.T) {
	l := module(t)
	check := func(names ...string) error {
		return l.healthy(t.Context(), []mutants.Mutant{{Package: ".", Tests: names}}, 1)
	}
	if err := check("TestTwo", "TestTwoIsBelowThree"); err != nil {
		t.Error(err)
	}
	if err := check("TestTwo", "TestThree"); err == nil || !strings.Contains(err.Error(), "TestThree") {
		t.Errorf("a test that is not there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(l.root, "a.go"), []byte("package a\n\nfunc two() int { return 3 }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := check("TestTwoIsBelowThree"); err == nil {
		t.Error("a test that fails passes for healthy")
	}
}

func TestReport(t *testing.T) {
	m := mutants.Mutant{Name: "m", Breaks: "it", Tests: []string{"TestA"}}
	var b strings.Builder
	if err := report(&b, []result{{m, killed, ""}}); err != nil || !strings.Contains(b.String(), "| m | it | `TestA` | killed |\n") {
		t.Errorf("%v\n%s", err, b.String())
	}
	for _, v := range []verdict{survived, broken} {
		if err := report(&b, []result{{m, killed, ""}, {m, v, ""}}); err == nil || err.Error() != "1 of 2 mutants are not killed" {
			t.Errorf("%s: %v", v, err)
		}
	}
}
