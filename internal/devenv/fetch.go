package devenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// The library that fetches PostgreSQL knows one act: download, unpack, initdb
// and start, as the user that it runs as. PostgreSQL refuses the last two to
// root. So the act is done by this same executable, run again as the
// unprivileged user with fetchVar set; init sees it before main does.
const fetchVar = "OUTBOXD_DEVENV_FETCH"

func init() {
	version, dir, ok := strings.Cut(os.Getenv(fetchVar), " ")
	if !ok {
		return
	}
	if err := fetchHere(version, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// fetchBinaries puts the bin, lib and share directories of a PostgreSQL release
// into dir/pg, where dir belongs to the user that services run as.
func fetchBinaries(ctx context.Context, version, dir string) error {
	cred, err := credential()
	if err != nil {
		return err
	}
	// The executable of a test lies in a directory that only its owner may
	// enter; the link in /proc is followed without looking at the path.
	self := "/proc/self/exe"
	if _, err := os.Stat(self); err != nil {
		if self, err = os.Executable(); err != nil {
			return fmt.Errorf("find this executable: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Dir = dir
	cmd.Env = []string{fetchVar + "=" + version + " " + dir, "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch PostgreSQL %s: %w: %s", version, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// fetchHere is fetchBinaries in the second process. The server that the library
// starts is stopped at once, and what it needed for it removed.
func fetchHere(version, dir string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	scratch := filepath.Join(dir, "scratch")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return err
	}
	if err := os.Setenv("TMPDIR", scratch); err != nil { // the library leaves its log there
		return err
	}
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedpostgres.PostgresVersion(version)).
		BinariesPath(filepath.Join(dir, "pg")).
		CachePath(filepath.Join(scratch, "download")).
		RuntimePath(filepath.Join(scratch, "run")).
		DataPath(filepath.Join(scratch, "data")).
		StartParameters(map[string]string{"unix_socket_directories": "", "listen_addresses": "127.0.0.1"}).
		Port(uint32(port)).
		StartTimeout(startTimeout).
		Logger(io.Discard))
	if err := server.Start(); err != nil {
		return err
	}
	return errors.Join(server.Stop(), os.RemoveAll(scratch))
}
