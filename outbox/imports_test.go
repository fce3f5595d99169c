package outbox_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A service that imports us must get pgx and nothing else.
func TestImportsOnlyTheStandardLibraryAndPgx(t *testing.T) {
	allowed := append(deps(t, "github.com/jackc/pgx/v5"), "github.com/outboxd/outboxd/outbox", "github.com/outboxd/outboxd/outbox/outboxtest")
	for _, pkg := range []string{".", "./outboxtest"} {
		for _, dep := range deps(t, pkg) {
			if !slices.Contains(allowed, dep) {
				t.Errorf("%s depends on %s", pkg, dep)
			}
		}
	}
}

// deps returns the packages outside of the standard library that pkg needs.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Fields(string(out))
}

// An event written outside of a transaction is the mistake this package
// prevents; it must not compile. Each line of testdata/onlytx that ends in
// "// must not compile" has to be an error, and no other line may be.
func TestOnlyATransactionCompiles(t *testing.T) {
	dir := filepath.Join("testdata", "onlytx")
	source, err := os.ReadFile(filepath.Join(dir, "onlytx.go"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, line := range strings.Split(string(source), "\n") {
		if strings.HasSuffix(line, "// must not compile") {
			want = append(want, fmt.Sprint(i+1))
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "-o", os.DevNull, "./"+filepath.ToSlash(dir)).CombinedOutput()
	if err == nil {
		t.Fatal("the program compiles")
	}
	var got []string
	for _, match := range regexp.MustCompile(`onlytx\.go:(\d+):\d+: cannot use`).FindAllStringSubmatch(string(out), -1) {
		got = append(got, match[1])
	}
	if len(want) < 8 || !slices.Equal(got, want) {
		t.Errorf("errors in lines %v, want %v:\n%s", got, want, out)
	}
}
