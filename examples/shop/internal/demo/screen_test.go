package demo

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}

// someSnapshot is the embedded demo after the relay was killed.
func someSnapshot() snapshot {
	list := stations(false)
	return snapshot{
		elapsed: 12_300 * time.Millisecond, duration: 20 * time.Second, placed: 540, refused: 60,
		rows: []row{
			{station: list[0], written: 870, relayed: 901, consumed: 855, p50: 2100 * time.Microsecond, p99: 1999 * time.Millisecond},
			{station: list[1], written: 856, relayed: 880, consumed: 870, p50: 3 * time.Millisecond, p99: 5 * time.Millisecond},
			{station: list[2], consumed: 0},
			{station: list[3]},
		},
		relays: []relayState{
			{name: "kafka", pid: 4711, published: map[string]int{"outbox.event.order": 901, "outbox.event.reservation": 880}},
			{name: "rabbitmq", published: map[string]int{"reservation.confirmed": 7}},
		},
	}
}

func TestSnapshot(t *testing.T) {
	s := someSnapshot()
	golden(t, "table.golden", s.table())
	golden(t, "line.golden", s.line()+"\n")
	for line := range strings.Lines(s.table()) {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("a line of %d columns would wrap: %s", n, line)
		}
	}
	s.elapsed = s.duration
	if got, _, _ := strings.Cut(s.table(), ":"); got != "closed" {
		t.Errorf("when all is over it says %q", got)
	}
}

// terminal is what people see of what was written: enough of one for the two
// sequences that the screen uses.
func terminal(t *testing.T, written string) string {
	t.Helper()
	lines := []string{""}
	for written != "" {
		if rest, ok := strings.CutPrefix(written, "\x1b["); ok {
			up, rest, _ := strings.Cut(rest, "A\x1b[J")
			n := 0
			for _, digit := range up {
				n = 10*n + int(digit-'0')
			}
			if n < 1 || n >= len(lines) {
				t.Fatalf("%s lines up of %d", up, len(lines))
			}
			lines = append(lines[:len(lines)-1-n], "")
			written = rest
			continue
		}
		_, size := utf8.DecodeRuneInString(written)
		if written[0] == '\n' {
			lines = append(lines, "")
		} else {
			lines[len(lines)-1] += written[:size]
		}
		written = written[size:]
	}
	return strings.Join(lines, "\n")
}

func TestScreen(t *testing.T) {
	shot := someSnapshot()
	var out bytes.Buffer
	s := newScreen(&out, false)
	if s.live {
		t.Fatal("a buffer is taken for a terminal")
	}
	s.live = true
	s.say("begin")
	s.draw(shot)
	s.draw(shot)
	s.say("kill %d", -9)
	s.draw(shot)
	s.leave()
	s.say("end")
	want := "begin\nkill -9\n\n" + shot.table() + "end\n"
	if got := terminal(t, out.String()); got != want {
		t.Errorf("on a terminal:\n%s\nwant:\n%s", got, want)
	}

	out.Reset()
	s = newScreen(&out, false)
	s.say("begin")
	s.draw(shot)
	s.say("end")
	if want := "begin\n" + shot.line() + "\nend\n"; out.String() != want {
		t.Errorf("elsewhere:\n%q\nwant:\n%q", out.String(), want)
	}
}

func TestLiveness(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		term  string
		plain bool
		live  bool
	}{{"xterm", false, true}, {"xterm", true, false}, {"dumb", false, false}} {
		t.Setenv("TERM", c.term)
		if got := newScreen(null, c.plain).live; got != c.live {
			t.Errorf("TERM=%s, plain %t: live %t, want %t", c.term, c.plain, got, c.live)
		}
	}
}
