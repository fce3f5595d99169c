package devenv

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// DefaultPostgres is the major version that is started when none is asked for.
const DefaultPostgres = "17"

// releases are the archives that stand for each major version.
var releases = map[string]string{
	"14": "14.24.0",
	"15": "15.19.0",
	"16": "16.15.0",
	"17": "17.11.0",
	"18": "18.6.0",
}

// PostgresVersions returns the major versions that can be started, oldest first.
func PostgresVersions() []string {
	return slices.Sorted(maps.Keys(releases))
}

// installation is a set of PostgreSQL programs and a data directory, made by
// them once, that every server begins with a copy of.
type installation struct {
	version  string // major
	bin      string
	template string
}

// install returns the installation for a major version, fetching it at first
// use. An empty version is the one of OUTBOXD_TEST_POSTGRES_BIN, or the default.
func install(ctx context.Context, version string) (*installation, error) {
	if bin := os.Getenv("OUTBOXD_TEST_POSTGRES_BIN"); bin != "" {
		local, err := localVersion(ctx, bin)
		if err != nil {
			return nil, err
		}
		if version == "" || version == local {
			key := fmt.Sprintf("postgres-%s-local-%x", local, sha256.Sum256([]byte(bin)))
			return withTemplate(ctx, local, bin, key[:min(len(key), 40)])
		}
	}
	if version == "" {
		version = DefaultPostgres
	}
	release, ok := releases[version]
	if !ok {
		return nil, fmt.Errorf("start PostgreSQL %q: known versions are %s", version, strings.Join(PostgresVersions(), ", "))
	}
	key := "postgres-" + release
	dir, err := cached(key, func(dir string) error {
		return progress("fetch PostgreSQL "+release+" (about 15 MB)", func() error {
			return fetchBinaries(ctx, release, dir)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("%w (`make services` fetches everything that the tests need)", err)
	}
	return withTemplate(ctx, version, filepath.Join(dir, "pg", "bin"), key)
}

// localVersion returns the major version of the programs in bin.
func localVersion(ctx context.Context, bin string) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("use OUTBOXD_TEST_POSTGRES_BIN: %w", err)
	}
	match := regexp.MustCompile(`\d+`).FindString(string(out))
	if match == "" {
		return "", fmt.Errorf("use OUTBOXD_TEST_POSTGRES_BIN: no version in %q", out)
	}
	return match, nil
}

func withTemplate(ctx context.Context, version, bin, key string) (*installation, error) {
	dir, err := cached(key+"-data", func(dir string) error {
		return initdb(ctx, bin, dir)
	})
	if err != nil {
		return nil, err
	}
	return &installation{version: version, bin: bin, template: filepath.Join(dir, "data")}, nil
}

// initdb creates a data directory in dir/data whose superuser is postgres with
// the password postgres.
func initdb(ctx context.Context, bin, dir string, more ...string) error {
	cred, err := credential()
	if err != nil {
		return err
	}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(postgresPassword+"\n"), 0o644); err != nil {
		return fmt.Errorf("write password file: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), append([]string{
		"--pgdata=" + filepath.Join(dir, "data"), "--username=" + postgresUser, "--pwfile=" + password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"}, more...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
