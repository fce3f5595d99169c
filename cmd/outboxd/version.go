package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
)

func newVersion(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what this binary was built from",
		RunE: func(*cobra.Command, []string) error {
			b := build()
			_, err := fmt.Fprintf(s.out, "outboxd %s\nrevision %s\nbuilt with %s for %s/%s\n", b.Version, b.Revision, b.GoVersion, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// build reads what the Go linker recorded; no build flag is needed.
func build() metrics.Build {
	b := metrics.Build{Version: "unknown", Revision: "unknown", GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	modified := false
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			b.Revision = setting.Value
		case "vcs.modified":
			modified = setting.Value == "true"
		}
	}
	if modified {
		b.Revision += " (modified)"
	}
	return b
}
