package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
)

func parseLevel(level string) (slog.Level, error) {
	if err := oneOf("log-level", level, "debug", "info", "warn", "error"); err != nil {
		return 0, err
	}
	var l slog.Level
	err := l.UnmarshalText([]byte(level))
	return l, err
}

// newLogger logs to w in the given format; auto is text when terminal says so.
// It reports whether that is JSON.
func newLogger(w io.Writer, level, format string, terminal bool) (log *slog.Logger, json bool, err error) {
	l, err := parseLevel(level)
	if err != nil {
		return nil, false, err
	}
	options := &slog.HandlerOptions{Level: l}
	if format == "json" || format == "auto" && !terminal {
		return slog.New(slog.NewJSONHandler(w, options)), true, nil
	}
	return slog.New(slog.NewTextHandler(w, options)), false, nil
}

// isTerminal says whether people read f. A character device is close enough to
// a terminal, and needs no library.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// lineLogger logs what is written to it, a line an entry: setup reports in
// lines, and standard output is the records' where the broker is jsonl:-.
type lineLogger struct {
	log  func(line string)
	rest []byte
}

func (l *lineLogger) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.rest = rest
		if line = bytes.TrimSpace(line); len(line) > 0 {
			l.log(string(line))
		}
	}
}
