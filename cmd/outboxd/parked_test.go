package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
)

// TestParkedCommands: a key is parked, shown, retried and discarded while its
// relay runs.
func TestParkedCommands(t *testing.T) {
	db, path := database(t, "--pipeline", "p"), filepath.Join(t.TempDir(), "out")
	execSQL(t, db, "ALTER TABLE outbox ALTER type DROP NOT NULL")
	// No type: CloudEvents cannot do without, and the key is known.
	execSQL(t, db, `INSERT INTO outbox (id, aggregatetype, aggregateid, payload) VALUES ('0190d5a5-6c3a-7000-8000-000000000001', 'order', 'one', '{"secret":"x"}')`)
	insert(t, db, 1, 3)
	execSQL(t, db, `INSERT INTO outbox (id, aggregatetype, aggregateid, payload) VALUES ('0190d5a5-6c3a-7000-8000-000000000002', 'order', E'two\e[31m', '{}')`)
	b := run(t, db, path, "--pipeline", "p")
	eventually(t, "5 parked events", func() bool {
		_, body := b.get("/metrics")
		return strings.Contains(body, `outboxd_parked_events{pipeline="p"} 5`) && strings.Contains(body, `outboxd_parked_keys{pipeline="p"} 2`) &&
			// These count what is written, and not what is about to be.
			strings.Contains(body, `outboxd_events_parked_total{pipeline="p",reason="missing_field"} 2`) &&
			strings.Contains(body, `outboxd_events_parked_total{pipeline="p",reason="behind"} 3`)
	})
	parked := func(command string, args ...string) result {
		return call(t, nil, append(append(append([]string{"parked"}, strings.Fields(command)...), "--database", db, "--pipeline", "p"), args...)...)
	}
	says := func(r result, exit int, words ...string) {
		t.Helper()
		r.expect(t, exit)
		for _, w := range words {
			if !strings.Contains(r.out, w) {
				t.Errorf("does not say %q:\n%s%s", w, r.out, r.err)
			}
		}
	}
	says(parked("list"), 0, "missing_field  parked  2", "behind         parked  3")
	says(parked("list --key one --limit 2"), 0, "0190d5a5-6c3a-7000-8000-000000000001  one", "missing_field")
	var rows []rowView
	if err := json.Unmarshal([]byte(parked("list --reason behind -o json").out), &rows); err != nil || len(rows) != 3 || *rows[0].AggregateID != "one" {
		t.Errorf("%v %+v", err, rows)
	}
	if out := parked("list --reason missing_field").out; strings.Contains(out, "\x1b") {
		t.Errorf("the key steers the terminal:\n%s", out)
	}
	says(parked("show 0190d5a5-6c3a-7000-8000-000000000001"), 0, `payload        {"secret":"x"}`, "type is NULL", "state          parked")
	says(parked("show 0190d5a5-6c3a-7000-8000-000000000001 --payload"), 0, `{"secret":"x"}`)
	parked("show nobody").expect(t, 1, "nothing_parked", "nobody", "outboxd parked list --pipeline p --database")

	parked("retry "+rows[0].ID).expect(t, 1, "not_the_first", "waits behind event 0190d5a5-6c3a-7000-8000-000000000001", "--key")
	says(parked("retry --reason missing_field --wait"), 0, "published   0 events", "still there 2 events")
	says(parked("discard 0190d5a5-6c3a-7000-8000-000000000001 --wait", "--note", "has no type"), 0, "discarded   1 event", "behind      3 events, which stay parked")
	says(parked("show 0190d5a5-6c3a-7000-8000-000000000001"), 0, "state          discarded", "note           has no type")
	says(parked("retry --key one --wait"), 0, "published   3 events")
	insert(t, db, 4, 2)
	eventually(t, "the key is handed back", func() bool { return len(numbers(t, path)) == 5 })
	for i, n := range numbers(t, path) {
		if n != i+1 {
			t.Errorf("event %d in place %d", n, i)
		}
	}
	if code := b.finish(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	says(parked("discard --all --note over"), 0, "marked      1 event to discard; the relay does it")
	replay := func(args ...string) result {
		return call(t, nil, append([]string{"replay", "--database", db, "--pipeline", "p", "--broker", "jsonl:" + path, "--dry-run"}, args...)...)
	}
	says(replay("--since", "1h"), 0, "rows       5\n")
	says(replay("--id", "0190d5a5-6c3a-7000-8000-000000000001"), 0, "rows       1\n")
	r := call(t, nil, "teardown", "--database", db, "--pipeline", "p", "--yes")
	says(r, 0, "1 parked events of pipeline p, which were not published, and the record of 1 discarded ones")
}

func TestParkedUsage(t *testing.T) {
	for args, want := range map[string]string{
		"show":                        "give one id",
		"show a b":                    "give one id",
		"list --key a --reason b":     "give one of --key and --reason",
		"list extra":                  `unknown argument "extra"`,
		"list --limit 0":              "--limit 0",
		"list -o xml":                 `--output "xml"`,
		"retry":                       "one of them",
		"retry a --all":               "one of them",
		"retry --destination x --all": "--destination needs --key",
		"discard a":                   "--note",
		"discard --note x":            "one of them",
		"retri":                       "did you mean retry",
	} {
		call(t, nil, append([]string{"parked"}, strings.Fields(args)...)...).expect(t, 2, want)
	}
	call(t, nil, "parked", "list", "--database", "postgres://h:port/x").expect(t, 78, "--database")
	db := database(t)
	call(t, nil, "parked", "list", "--database", db).expect(t, 78, "not_set_up", "outboxd setup")
}

// TestParkedOtherPipeline names those that there are.
func TestParkedOtherPipeline(t *testing.T) {
	db := database(t, "--pipeline", "p")
	call(t, nil, "parked", "list", "--database", db, "--pipeline", "q").expect(t, 78, "no_such_pipeline", "--pipeline that is meant: p")
	r := call(t, nil, "parked", "list", "--database", db, "--pipeline", "p")
	if r.expect(t, 0); r.out != "nothing is parked\n" {
		t.Errorf("%s", r.out)
	}
}

// TestParkedLarge: what is too large for a terminal is only shown when asked for.
func TestParkedLarge(t *testing.T) {
	var e parked.Row
	e.Payload, e.Headers = []byte(strings.Repeat("p", shownBytes+1)), []byte(strings.Repeat("h", shownBytes+2))
	var out strings.Builder
	if err := (printer{out: &out}).row(&e); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"payload        16385 bytes, too many to show: see --payload", "headers        16386 bytes, too many to show: see --output json"} {
		if !strings.Contains(out.String(), want) || out.Len() > 1000 {
			t.Errorf("%q is missing in:\n%.1000s", want, out.String())
		}
	}
	e.Payload, e.Headers = e.Payload[:shownBytes], e.Headers[:shownBytes]
	out.Reset()
	if err := (printer{out: &out}).row(&e); err != nil || strings.Contains(out.String(), "too many") {
		t.Errorf("%v, %d bytes", err, out.Len())
	}
	out.Reset()
	if err := (printer{out: &out, json: true}).row(&e); err != nil || !strings.Contains(out.String(), string(e.Payload)) {
		t.Errorf("%v, %d bytes of JSON", err, out.Len())
	}
}

// TestBytes reads and writes sizes.
func TestBytes(t *testing.T) {
	for text, want := range map[string]string{"1": "1", "1024": "1KiB", "256MiB": "256MiB", "1024MiB": "1GiB", "1536KiB": "1536KiB"} {
		var v bytesValue
		if err := v.Set(text); err != nil || v.String() != want {
			t.Errorf("%s: %s, %v", text, v.String(), err)
		}
	}
	for _, text := range []string{"", "0", "-1", "1MB", "MiB", "99999999999GiB"} {
		var v bytesValue
		if err := v.Set(text); err == nil {
			t.Errorf("%q became %s", text, v.String())
		}
	}
}
