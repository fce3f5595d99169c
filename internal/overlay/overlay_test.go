package overlay_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/overlay"
)

// TestWrite: the go command takes a file that is replaced and one that is added,
// and nothing is changed where they would be.
func TestWrite(t *testing.T) {
	root := t.TempDir()
	main := filepath.Join(root, "main.go")
	const as = "package main\n\nfunc main() {}\n"
	for name, text := range map[string]string{"go.mod": "module a\n\ngo 1.24\n", "main.go": as} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, err := overlay.Write(filepath.Join(t.TempDir(), "new"), map[string]string{
		main:                            "package main\n\nfunc main() { println(added) }\n",
		filepath.Join(root, "added.go"): "package main\n\nconst added = \"overlaid\"\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "run", "-overlay", file, ".")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "overlaid") {
		t.Errorf("%v\n%s", err, out)
	}
	if text, err := os.ReadFile(main); err != nil || string(text) != as {
		t.Errorf("main.go is now %q, %v", text, err)
	}
}

func TestFind(t *testing.T) {
	for text, want := range map[string][2]int{
		"":             {0, 0},
		"a\nb\nc\n":    {2, 1},
		"b\nc\nb\nc\n": {4, 2},
		"ab\nc\n":      {0, 0},
		"b\nd\n":       {0, 0},
		"a\nb\n":       {0, 0},
	} {
		if at, places := overlay.Find(text, "b\nc\n"); [2]int{at, places} != want {
			t.Errorf("%q: %d of %d, want %v", text, at, places, want)
		}
	}
}
