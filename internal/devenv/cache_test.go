package devenv_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv"
)

func TestCachedBuildsOnce(t *testing.T) {
	t.Setenv("OUTBOXD_TEST_CACHE", filepath.Join(t.TempDir(), "not", "there", "yet"))
	var builds atomic.Int32
	dirs := make([]string, 8)
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			dir, err := devenv.Cached("thing", func(dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			// Whoever is told the directory must find it complete.
			if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "content" {
				t.Errorf("file in %s: %q, %v", dir, b, err)
			}
			dirs[i] = dir
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
	for _, dir := range dirs {
		if dir != dirs[0] {
			t.Errorf("directories differ: %q", dirs)
		}
	}
}

func TestCachedForgetsFailures(t *testing.T) {
	t.Setenv("OUTBOXD_TEST_CACHE", t.TempDir())
	broken := errors.New("broken")
	_, err := devenv.Cached("thing", func(dir string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
	})
	if !errors.Is(err, broken) {
		t.Fatalf("Cached = %v, want the error of the build", err)
	}
	dir, err := devenv.Cached("thing", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); err == nil {
		t.Error("a failed build left a file to the next one")
	}
}

// A program that was killed while it built leaves a directory that is not to be
// trusted.
func TestCachedDistrustsParts(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("OUTBOXD_TEST_CACHE", cache)
	part := filepath.Join(cache, "thing.part")
	if err := errors.Join(os.Mkdir(part, 0o755), os.WriteFile(filepath.Join(part, "half"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	dir, err := devenv.Cached("thing", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); err == nil {
		t.Error("a part of a killed build came into the cache")
	}
}

func TestCacheDir(t *testing.T) {
	t.Setenv("OUTBOXD_TEST_CACHE", "")
	dir, err := devenv.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if want := "outboxd-devenv"; filepath.Base(dir) != want {
		t.Errorf("CacheDir() = %s, want a directory called %s", dir, want)
	}
	t.Setenv("OUTBOXD_TEST_CACHE", "/elsewhere")
	if dir, err := devenv.CacheDir(); err != nil || dir != "/elsewhere" {
		t.Errorf("CacheDir() = %s, %v; want the directory of the variable", dir, err)
	}
}
