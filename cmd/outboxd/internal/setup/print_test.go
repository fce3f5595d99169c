package setup_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func printed(t *testing.T, o setup.Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := setup.Print(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// testPrinted runs what is printed and finds nothing left to do.
func testPrinted(t *testing.T, d *database) {
	relay, _ := d.role(t, "REPLICATION")
	app, _ := d.role(t, "")
	o := setup.Options{Database: d.url, RelayRole: relay, AppRole: app}
	script := printed(t, o)
	if n := d.text(t, `SELECT ((SELECT count(*) FROM pg_namespace WHERE nspname = 'outboxd') + (SELECT count(*) FROM pg_publication)
		+ (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()))::text`); n != "0" {
		t.Fatal("printing changed the database")
	}
	d.exec(t, script)
	out := d.mustApply(t, o)
	if count(out, "already there", "") != 5 || strings.Contains(out, "created") || strings.Contains(out, "migrated") {
		t.Errorf("after the printed SQL setup still had to do something:\n%s\n%s", out, script)
	}
	if again := printed(t, o); strings.Contains(again, "CREATE") {
		t.Errorf("printed again:\n%s", again)
	}
}

// Without a server it is written for a fresh database of the assumed version.
func TestPrintWithoutServer(t *testing.T) {
	nowhere := "postgres://someone:hunter2@127.0.0.1:1/shop?connect_timeout=2"
	script := printed(t, setup.Options{Database: nowhere})
	for _, want := range []string{
		"-- ASSUMED: PostgreSQL 17", "CREATE TABLE \"public\".\"outbox\"", "'outboxd_shop_outbox', 'pgoutput', false, false, true)",
		"INSERT INTO outboxd.schema_version (version_id, is_applied) VALUES (1, true);", "INSERT INTO outboxd.witness",
	} {
		if !strings.Contains(script, want) {
			t.Errorf("%q is missing in\n%s", want, script)
		}
	}
	if strings.Contains(script, "hunter2") {
		t.Error("the password is printed")
	}
	for _, line := range strings.Split(script, "\n") {
		if strings.Contains(line, "127.0.0.1") && !strings.HasPrefix(line, "--") {
			t.Errorf("not a comment: %q", line)
		}
	}
	old := printed(t, setup.Options{Database: nowhere, ServerVersion: 14})
	if strings.Contains(old, "false, false, true") || strings.Contains(old, `"outbox" ("id"`) {
		t.Errorf("for 14:\n%s", old)
	}
	if err := setup.Print(t.Context(), setup.Options{Database: nowhere, Columns: setup.Columns{ID: "event_id"}}, new(bytes.Buffer)); err == nil {
		t.Error("SQL was printed for a table that nobody has seen")
	}
}

// What a DBA has to do first is in the comments; what no SQL can mend is an
// error.
func TestPrintProblems(t *testing.T) {
	d := newDatabase(t)
	_, weakURL := d.role(t, "")
	script := printed(t, setup.Options{Database: weakURL, RelayRole: "no one"})
	if !strings.Contains(script, `-- FIRST: CREATE ROLE "no one" LOGIN REPLICATION`) {
		t.Errorf("no word of the role:\n%s", script)
	}
	d.exec(t, "CREATE TABLE outbox (id uuid)")
	err := setup.Print(t.Context(), setup.Options{Database: d.url}, new(bytes.Buffer))
	wantProblem(t, err, setup.CodeTable, "aggregatetype")
	_, err = d.apply(t, setup.Options{Slot: "Bad Slot", Pipeline: devtest.Name(t)})
	wantProblem(t, err, cdc.CodeConfig)
}
