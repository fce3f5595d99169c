package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// screen is where the demo talks. On a terminal, what was said scrolls above a
// table that is drawn again and again; elsewhere everything is a line.
type screen struct {
	out  io.Writer
	live bool

	mu     sync.Mutex
	height int // lines of the table that stands below what was said
}

// newScreen draws the table if out is a terminal that can, unless plain is set.
func newScreen(out io.Writer, plain bool) *screen {
	return &screen{out: out, live: !plain && isTerminal(out) && os.Getenv("TERM") != "dumb"}
}

// isTerminal reports whether people watch w. A character device is close enough
// to a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// say adds a line, or several.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// draw shows a snapshot in place of the one before.
func (s *screen) draw(shot snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live {
		fmt.Fprintln(s.out, shot.line())
		return
	}
	s.erase()
	table := "\n" + shot.table()
	s.height = strings.Count(table, "\n")
	fmt.Fprint(s.out, table)
}

// erase takes the table away: up to its first line, then all below.
func (s *screen) erase() {
	if s.height > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.height)
		s.height = 0
	}
}

// leave lets the table stand as it is and go on below it.
func (s *screen) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.height = 0
}
