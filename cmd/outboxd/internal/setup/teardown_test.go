package setup_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func (d *database) teardown(t *testing.T, o setup.TeardownOptions, answer string) (string, error) {
	t.Helper()
	o.Database = d.url
	var out bytes.Buffer
	err := setup.Teardown(t.Context(), o, strings.NewReader(answer), &out)
	return out.String(), err
}

func testTeardown(t *testing.T, d *database) {
	out, err := d.teardown(t, setup.TeardownOptions{Yes: true}, "")
	if err != nil || count(out, "dropped", "") != 3 || count(out, "kept", "table public.outbox") != 1 {
		t.Fatalf("teardown: %v\n%s", err, out)
	}
	slot, publication := strings.Index(out, "replication slot"), strings.Index(out, "publication outboxd")
	if slot > publication {
		t.Errorf("the publication was dropped before the slot:\n%s", out)
	}
	if n := d.text(t, "SELECT count(*)::text FROM outbox"); n == "0" {
		t.Error("the rows are gone")
	}
	out, err = d.teardown(t, setup.TeardownOptions{Yes: true, DropTables: true}, "")
	if err != nil || count(out, "not there", "") != 3 || count(out, "dropped", "table public.outbox") != 1 {
		t.Fatalf("teardown with tables: %v\n%s", err, out)
	}
	left := d.text(t, `SELECT count(*)::text FROM pg_class WHERE relname LIKE 'outbox%' AND relkind IN ('r', 'p')`)
	functions := d.text(t, "SELECT count(*)::text FROM pg_proc WHERE proname = 'publish'")
	rings := d.text(t, "SELECT count(*)::text FROM outboxd.ring")
	if left != "0" || functions != "0" || rings != "0" {
		t.Errorf("%s tables, %s functions, %s rings left", left, functions, rings)
	}
	if out := d.mustApply(t, setup.Options{}); count(out, "created", "") != 4 {
		t.Errorf("setup after teardown:\n%s", out)
	}
	if _, err = d.teardown(t, setup.TeardownOptions{Yes: true, DropTables: true}, ""); err != nil {
		t.Fatal(err)
	}
}

func TestTeardownAsks(t *testing.T) {
	d := newDatabase(t)
	d.mustApply(t, setup.Options{})
	pipeline := d.text(t, "SELECT pipeline FROM outboxd.witness")
	for _, answer := range []string{"", "\n", "yes\n", pipeline + "x\n"} {
		out, err := d.teardown(t, setup.TeardownOptions{}, answer)
		wantProblem(t, err, setup.CodeUnconfirmed, "nothing was changed")
		if count(out, "will drop", "") != 3 || count(out, "dropped", "") != 0 {
			t.Errorf("answer %q:\n%s", answer, out)
		}
	}
	if n := d.text(t, "SELECT count(*)::text FROM outboxd.witness w JOIN pg_replication_slots s ON s.slot_name = w.slot"); n != "1" {
		t.Fatal("something was dropped")
	}
	if out, err := d.teardown(t, setup.TeardownOptions{}, pipeline+"\n"); err != nil || count(out, "dropped", "") != 3 {
		t.Errorf("with the name: %v\n%s", err, out)
	}
}

// The witness knows the names that setup was given.
func TestTeardownFollowsWitness(t *testing.T) {
	d := newDatabase(t)
	o := setup.Options{Pipeline: devtest.Name(t), Slot: devtest.Name(t), Publication: "My Pub", Table: "public.events"}
	d.mustApply(t, o)
	_, err := d.teardown(t, setup.TeardownOptions{Pipeline: o.Pipeline, Slot: "other", Yes: true}, "")
	wantProblem(t, err, cdc.CodeConfigMismatch, "slot", o.Slot)
	out, err := d.teardown(t, setup.TeardownOptions{Pipeline: o.Pipeline, Yes: true, DropTables: true}, "")
	if err != nil || count(out, "dropped", "") != 4 || count(out, "dropped", o.Slot) != 1 || count(out, "dropped", "events") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTeardownKeepsWhatOthersUse(t *testing.T) {
	d := newDatabase(t)
	first := setup.Options{Pipeline: devtest.Name(t), Publication: "shared"}
	second := setup.Options{Pipeline: devtest.Name(t), Publication: "shared"}
	d.mustApply(t, first)
	d.mustApply(t, second)
	out, err := d.teardown(t, setup.TeardownOptions{Pipeline: first.Pipeline, Yes: true, DropTables: true}, "")
	if err != nil || count(out, "kept", "publication shared (another pipeline") != 1 || count(out, "kept", "table public.outbox and all rows in it (another pipeline") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	d.exec(t, "CREATE TABLE more (a int); ALTER PUBLICATION shared ADD TABLE more")
	out, err = d.teardown(t, setup.TeardownOptions{Pipeline: second.Pipeline, Yes: true}, "")
	if err != nil || count(out, "kept", "publication shared (it publishes other tables") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

// Who may not drop everything drops nothing: the slot, above all, cannot be
// brought back.
func TestTeardownNeedsAllRights(t *testing.T) {
	d := newDatabase(t)
	role, databaseURL := d.role(t, "REPLICATION")
	o := setup.Options{Pipeline: devtest.Name(t), RelayRole: role}
	d.mustApply(t, o)
	var out strings.Builder
	err := setup.Teardown(t.Context(), setup.TeardownOptions{Database: databaseURL, Pipeline: o.Pipeline, Yes: true}, strings.NewReader(""), &out)
	fix := wantProblem(t, err, cdc.CodePrivilege, "nothing was dropped")
	if !strings.Contains(fix, "run teardown as the owner") || count(out.String(), "dropped", "") != 0 {
		t.Errorf("fix %q\n%s", fix, out.String())
	}
	if n := d.text(t, "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); n != "1" {
		t.Errorf("%s slots are left, want 1", n)
	}
}

func TestTeardownKeepsForeignTable(t *testing.T) {
	d := newDatabase(t)
	d.exec(t, "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json)")
	d.mustApply(t, setup.Options{})
	out, err := d.teardown(t, setup.TeardownOptions{Yes: true, DropTables: true}, "")
	if err != nil || count(out, "kept", "table public.outbox and all rows in it (setup did not make it)") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	d.exec(t, "SELECT FROM outbox")
}

// A pipeline of which nothing is here was misspelt, or is gone already: who
// scripts a teardown must learn that it did nothing.
func TestTeardownUnknown(t *testing.T) {
	d := newDatabase(t)
	_, err := d.teardown(t, setup.TeardownOptions{Pipeline: "none", Yes: true}, "")
	wantProblem(t, err, cdc.CodeNotSetUp, "no pipeline none in database "+d.name+"; none is set up here")
	first, second := devtest.Name(t)+"_a", devtest.Name(t)+"_b"
	d.mustApply(t, setup.Options{Pipeline: first})
	d.mustApply(t, setup.Options{Pipeline: second})
	for _, o := range []setup.TeardownOptions{{}, {Yes: true}, {Pipeline: "none"}, {Pipeline: "none", Table: "public.nothing", DropTables: true}} {
		out, err := d.teardown(t, o, "")
		fix := wantProblem(t, err, cdc.CodeNotSetUp, "known here: "+min(first, second)+", "+max(first, second))
		if out != "" || fix != "name one of them with --pipeline" {
			t.Errorf("fix %q, said:\n%s", fix, out)
		}
	}
	// What is left of a pipeline is taken back, whatever it is.
	d.exec(t, "DELETE FROM outboxd.witness WHERE pipeline = '"+first+"'; DROP PUBLICATION outboxd_"+first)
	if out, err := d.teardown(t, setup.TeardownOptions{Pipeline: first, Yes: true}, ""); err != nil || count(out, "dropped", "slot outboxd_"+first) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	_, err = d.teardown(t, setup.TeardownOptions{Pipeline: first, Yes: true}, "")
	wantProblem(t, err, cdc.CodeNotSetUp, "known here: "+second)
}

func TestTeardownRefusesSlot(t *testing.T) {
	d := newDatabase(t)
	d.mustApply(t, setup.Options{})
	relay := d.follow(t, d.url)
	_, err := d.teardown(t, setup.TeardownOptions{Yes: true}, "")
	wantProblem(t, err, cdc.CodeSlotActive, "process", "a relay of the test")
	relay.stop(t)

	other := newDatabase(t)
	theirs := d.text(t, "SELECT slot FROM outboxd.witness")
	_, err = other.teardown(t, setup.TeardownOptions{Yes: true, Slot: theirs}, "")
	wantProblem(t, err, cdc.CodeSlotWrong, "database "+d.name)

	foreign := devtest.Name(t)
	d.exec(t, "SELECT pg_create_logical_replication_slot('"+foreign+"', 'test_decoding')")
	_, err = d.teardown(t, setup.TeardownOptions{Pipeline: devtest.Name(t), Slot: foreign, Yes: true}, "")
	wantProblem(t, err, cdc.CodeSlotWrong, "test_decoding")
	if n := d.text(t, "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); n != "2" {
		t.Error("a slot was dropped")
	}
}
