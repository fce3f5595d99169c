package crashpoint

import (
	"path/filepath"
	"testing"
)

// TestPointsFitTheCode: a place that the code has grown away from is no crash
// point. That they compile and are reached is seen by the end-to-end test.
func TestPointsFitTheCode(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Overlay(root, t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestInsert(t *testing.T) {
	p := Point{Name: "p", before: "\ttwo()\n"}
	if got, err := p.insert("\tone()\n\ttwo()\n"); err != nil || got != "\tone()\ncrashPoint(\"p\")\n\ttwo()\n" {
		t.Errorf("%q, %v", got, err)
	}
	p.only = "x"
	if got, err := p.insert("\tone()\n\ttwo()\n"); err != nil || got != "\tone()\nif x {\ncrashPoint(\"p\")\n}\n\ttwo()\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"", "\tone()\n", "\n\ttwo()\n\ttwo()\n", "\n\t\ttwo()\n"} {
		if _, err := p.insert(text); err == nil {
			t.Errorf("it goes into %q", text)
		}
	}
}
