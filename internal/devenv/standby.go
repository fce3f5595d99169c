package devenv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// StandbyOptions says which standby to make. The zero value is a good one.
type StandbyOptions struct {
	// Name is the standby's application_name and the name of its physical slot
	// on the primary. Empty: "standby".
	Name string
	// Synchronous makes commits on the primary wait until the standby has them,
	// and, from PostgreSQL 17 on, logical decoding too. The standby does not
	// inherit this.
	Synchronous bool
	// Settings go to postgresql.conf, over those of the primary.
	Settings map[string]string
}

// StartStandby makes a base backup of a running primary, starts it as a hot
// standby that follows the primary through a physical slot, and returns when it
// accepts connections. From PostgreSQL 17 on it keeps copies of those logical
// slots that were made with failover. Close it when done.
func StartStandby(ctx context.Context, primary *Postgres, o StandbyOptions) (*Postgres, error) {
	name := cmp.Or(o.Name, "standby")
	inst, err := install(ctx, primary.version)
	if err != nil {
		return nil, err
	}
	box, err := newSandbox("postgres", "QUIT")
	if err != nil {
		return nil, err
	}
	p, err := newPostgres(inst, box)
	if err == nil {
		err = p.follow(ctx, primary, name, o.Settings)
	}
	if err == nil && o.Synchronous {
		err = primary.waitFor(ctx, name)
	}
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", errors.Join(err, box.close()))
	}
	return p, nil
}

// follow fills the data directory with a backup of the primary and starts the
// server on it.
func (p *Postgres) follow(ctx context.Context, primary *Postgres, name string, settings map[string]string) error {
	if err := primary.backup(ctx, name, p.data, p.box); err != nil {
		return err
	}
	all := map[string]string{
		"primary_conninfo": fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=postgres application_name=%s sslmode=disable",
			primary.port, postgresUser, postgresPassword, name),
		"primary_slot_name":    name,
		"hot_standby":          "on",
		"hot_standby_feedback": "on",
	}
	if p.keepsLogicalSlots() {
		all["sync_replication_slots"] = "on"
	}
	maps.Copy(all, settings)
	if err := p.configure(all); err != nil {
		return err
	}
	return p.Start(ctx)
}

// keepsLogicalSlots reports whether standbys of this version can have copies of
// the primary's logical slots.
func (p *Postgres) keepsLogicalSlots() bool {
	major, err := strconv.Atoi(p.version)
	return err == nil && major >= 17
}

// backup copies the running server's data directory to the new directory to,
// and makes a physical slot that keeps the WAL which the copy needs.
func (p *Postgres) backup(ctx context.Context, slot, to string, box *sandbox) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres", postgresUser))
	if err != nil {
		return fmt.Errorf("back up PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	begin, end := "SELECT pg_backup_start('standby', fast => true)", "SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)"
	if p.version == "14" {
		begin, end = "SELECT pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", slot); err != nil {
		return fmt.Errorf("back up PostgreSQL: %w", err)
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return fmt.Errorf("begin a backup: %w", err)
	}
	if err := copyRunning(p.data, to, box); err != nil {
		return fmt.Errorf("back up PostgreSQL: %w", err)
	}
	var label string
	if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
		return fmt.Errorf("end a backup: %w", err)
	}
	for name, content := range map[string]string{"backup_label": label, "standby.signal": ""} {
		if err := box.write(filepath.Join(to, name), strings.NewReader(content)); err != nil {
			return fmt.Errorf("back up PostgreSQL: %w", err)
		}
	}
	return nil
}

// notCopied are the directories of a data directory that begin empty: WAL comes
// through the slot, slots are nobody else's, and the rest means nothing to
// another process.
var notCopied = []string{"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}

// copyRunning copies the data directory of a running server. Files may vanish
// meanwhile; recovery does without them.
func copyRunning(from, to string, box *sandbox) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			if err := box.mkdir(filepath.Join(to, name)); err != nil {
				return err
			}
			if slices.Contains(notCopied, name) {
				return fs.SkipDir
			}
			return nil
		case name == "postmaster.pid":
			return nil
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		return box.write(filepath.Join(to, name), f)
	})
}

// mkdir makes a directory that only the user of the sandbox's processes may use.
func (s *sandbox) mkdir(name string) error {
	if err := os.Mkdir(name, 0o700); err != nil {
		return err
	}
	return s.give(name)
}

// write makes a file of the user of the sandbox's processes.
func (s *sandbox) write(name string, content io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.give(name)
}

// give makes the user of the sandbox's processes the owner of a file.
func (s *sandbox) give(name string) error {
	if s.cred == nil {
		return nil
	}
	return os.Chown(name, int(s.cred.Uid), int(s.cred.Gid))
}

// waitFor makes commits and logical decoding wait for a standby.
func (p *Postgres) waitFor(ctx context.Context, standby string) error {
	settings := []string{"synchronous_standby_names"}
	if p.keepsLogicalSlots() {
		settings = append(settings, "synchronized_standby_slots")
	}
	conn, err := pgx.Connect(ctx, p.URL("postgres", postgresUser))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, name := range settings {
		if _, err := conn.Exec(ctx, "ALTER SYSTEM SET "+name+" = "+standby); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "SELECT pg_reload_conf()")
	return err
}

// Promote makes a standby a primary, on a new timeline, and returns when it
// takes writes. What it has not received by then it never will.
func (p *Postgres) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres", postgresUser))
	if err != nil {
		return fmt.Errorf("promote PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var done bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(wait_seconds => 60)").Scan(&done); err != nil {
		return fmt.Errorf("promote PostgreSQL: %w", err)
	}
	if !done {
		return errors.New("promote PostgreSQL: it is still a standby after 60 s")
	}
	return nil
}
