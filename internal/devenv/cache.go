package devenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// rootCache is the cache of root: services run as another user then, and that
// one cannot enter root's home.
const rootCache = "/var/cache/outboxd-devenv"

// CacheDir returns the directory that keeps downloads between runs:
// OUTBOXD_TEST_CACHE, or outboxd-devenv in the user's cache directory, or for
// root /var/cache/outboxd-devenv. For root it must be a place that the user nobody can enter.
func CacheDir() (string, error) {
	if dir := os.Getenv("OUTBOXD_TEST_CACHE"); dir != "" {
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return rootCache, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory (set OUTBOXD_TEST_CACHE to name one): %w", err)
	}
	return filepath.Join(dir, "outboxd-devenv"), nil
}

// cached returns the directory called name in the cache. If it is not there yet,
// build makes it, in a directory that is renamed when build has succeeded; other
// programs that want it wait for the lock beside it. The directory belongs to
// the user that services run as.
func cached(name string, build func(dir string) error) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	if isDir(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("create cache: %w", err)
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(dir) {
		return dir, nil
	}

	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return "", fmt.Errorf("clean cache: %w", err)
	}
	if err := makeOwnDir(part); err != nil {
		return "", fmt.Errorf("create %s: %w", part, err)
	}
	if err := build(part); err != nil {
		return "", errors.Join(err, os.RemoveAll(part))
	}
	if err := os.Rename(part, dir); err != nil {
		return "", fmt.Errorf("keep %s: %w", dir, err)
	}
	return dir, nil
}

// makeOwnDir creates a directory that belongs to the user that services run as.
func makeOwnDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	cred, err := credential()
	if err != nil || cred == nil {
		return err
	}
	return os.Chown(dir, int(cred.Uid), int(cred.Gid))
}

// lock waits for the exclusive lock on a file, which the kernel releases when
// this process ends. The file stays: removing it would let one program lock the
// removed file while another locks its successor.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
