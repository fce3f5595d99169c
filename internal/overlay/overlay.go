// Package overlay has the go command read other text in place of files, which
// stay as they are: see -overlay in `go help build`.
package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Write puts the texts, by the absolute name of the file that each replaces or
// adds, into dir, which it makes, and returns what -overlay is to be.
func Write(dir string, texts map[string]string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	replace := make(map[string]string, len(texts))
	for path, text := range texts {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = file
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, list, 0o600)
}

// Find returns in how many places of text the lines are, whole and in this
// order, and where the last of them begins.
func Find(text, lines string) (at, places int) {
	i := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(text[i:], lines) {
			at, places = i, places+1
		}
		i += len(line)
	}
	return at, places
}
