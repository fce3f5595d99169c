package cdc

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

var (
	update = flag.Bool("update", false, "rewrite the .golden files from the recordings")
	rerun  = flag.Bool("record", false, "record the .hex files again, from PostgreSQL 14 to 18, then update")
)

const recordings = "../testdata/pgoutput"

// Recordings of real servers decode into what the .golden files say.
func TestGolden(t *testing.T) {
	if *rerun {
		recordAll(t)
	}
	names := recordingNames(t)
	if len(names) != 5*2 {
		t.Fatalf("%d recordings, want text and binary from five versions: %s", len(names), names)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			got := dump(t, readRecording(t, name))
			golden := strings.TrimSuffix(name, ".hex") + ".golden"
			if *update || *rerun {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			compareLines(t, got, string(want))
		})
	}
}

// The server of this machine sends today what the one of its version sent when
// it was recorded, apart from positions, times and ids.
func TestGoldenIsCurrent(t *testing.T) {
	url := devtest.Database(t)
	var version int
	if err := connect(t, url).QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int / 10000`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	text, binary := recordScenario(t, url)
	for format, messages := range map[string][][]byte{"text": text, "binary": binary} {
		want, err := os.ReadFile(recordingName(version, format) + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		compareLines(t, timeless(dump(t, messages)), timeless(string(want)))
	}
}

// recordAll replaces the recordings.
func recordAll(t *testing.T) {
	for version := 14; version <= 18; version++ {
		server := devtest.PostgresVersion(t, strconv.Itoa(version)).URL("postgres", "postgres")
		text, binary := recordScenario(t, devtest.DatabaseOn(t, server))
		for format, messages := range map[string][][]byte{"text": text, "binary": binary} {
			var b bytes.Buffer
			for _, m := range messages {
				fmt.Fprintf(&b, "%x\n", m)
			}
			if err := os.WriteFile(recordingName(version, format)+".hex", b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func recordingName(version int, format string) string {
	return filepath.Join(recordings, fmt.Sprintf("pg%d-%s", version, format))
}

func recordingNames(tb testing.TB) []string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(recordings, "*.hex"))
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

// readRecording returns the messages of a .hex file, one a line.
func readRecording(tb testing.TB, name string) [][]byte {
	tb.Helper()
	file, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	var messages [][]byte
	for line := range strings.Lines(string(file)) {
		m, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		messages = append(messages, m)
	}
	return messages
}

// dump writes one line for each message: all that the decoder made of it.
func dump(t *testing.T, messages [][]byte) string {
	t.Helper()
	var b strings.Builder
	d := newDecoder()
	var f frame
	for i, m := range messages {
		if err := d.decode(m, &f); err != nil {
			t.Fatalf("message %d, %x: %v", i, m, err)
		}
		if f.trailing != 0 {
			t.Errorf("message %d, %x: %d trailing bytes", i, m, f.trailing)
		}
		fmt.Fprintf(&b, "%c", f.kind)
		switch f.kind {
		case 'B':
			fmt.Fprintf(&b, " lsn=%s time=%s xid=%d", f.lsn, f.time.Format(time.RFC3339Nano), f.xid)
		case 'C':
			fmt.Fprintf(&b, " lsn=%s end=%s time=%s", f.lsn, f.endLSN, f.time.Format(time.RFC3339Nano))
		case 'O':
			fmt.Fprintf(&b, " lsn=%s", f.lsn)
		case 'M':
			fmt.Fprintf(&b, " lsn=%s transactional=%t %q %q", f.lsn, f.transactional, f.prefix, f.content)
		case 'R':
			dumpRelation(&b, f.relation)
		case 'I':
			dumpRow(t, &b, f.relation, f.row)
		case 'U', 'D':
			fmt.Fprintf(&b, " %s", f.relation.Name)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func dumpRelation(b *strings.Builder, r *Relation) {
	if r == nil {
		b.WriteString(" as before")
		return
	}
	fmt.Fprintf(b, " oid=%d %s.%s identity=%c", r.OID, r.Schema, r.Name, r.ReplicaIdentity)
	for _, c := range r.Columns {
		fmt.Fprintf(b, " %s:oid=%d/%d", c.Name, c.Type, c.TypeMod)
		if c.Key {
			b.WriteString("/key")
		}
	}
}

// dumpRow writes each value's format and text, or its bytes where the type has
// no text here.
func dumpRow(t *testing.T, b *strings.Builder, r *Relation, row []Value) {
	fmt.Fprintf(b, " %s", r.Name)
	for i, v := range row {
		fmt.Fprintf(b, " %s=%c", r.Columns[i].Name, v.Format)
		if v.Format != Text && v.Format != Binary {
			continue
		}
		text, err := v.AppendText(nil, r.Columns[i].Type)
		if err != nil {
			if BinarySafe([]uint32{r.Columns[i].Type}) {
				t.Errorf("%s.%s: %v", r.Name, r.Columns[i].Name, err)
			}
			text = v.Bytes
		}
		if len(text) > 1000 {
			text = fmt.Appendf(nil, "%.20s… %d bytes", text, len(text))
		}
		fmt.Fprintf(b, "%q", text)
	}
}

var (
	varying = regexp.MustCompile(`\b(lsn|end|time|xid)=\S+|\boid=[0-9]{5,}`)
	// repeated and empty come and go with the server's background work.
	repeated = regexp.MustCompile(`(?m)^R as before\n`)
	empty    = regexp.MustCompile(`(?m)^B.*\nC.*\n`)
)

// timeless takes out of a dump what differs between two runs of a scenario.
func timeless(dump string) string {
	dump = empty.ReplaceAllString(repeated.ReplaceAllString(dump, ""), "")
	return varying.ReplaceAllString(dump, "…")
}

func compareLines(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		switch {
		case i >= len(g):
			t.Fatalf("line %d is missing: %s", i+1, w[i])
		case i >= len(w):
			t.Fatalf("line %d is too many: %s", i+1, g[i])
		case g[i] != w[i]:
			t.Fatalf("line %d is\n%s, want\n%s", i+1, g[i], w[i])
		}
	}
}
