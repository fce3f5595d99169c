package setup_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

const plainOutbox = "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json);"

// unchanged fails the test if setup left something behind.
func (d *database) unchanged(t *testing.T) {
	t.Helper()
	if n := d.text(t, "SELECT count(*)::text FROM pg_namespace WHERE nspname = 'outboxd'"); n != "0" {
		t.Error("the schema was made all the same")
	}
}

func TestExistingTableMismatches(t *testing.T) {
	d := newDatabase(t)
	for name, c := range map[string]struct {
		table   string
		columns string
		want    []string // one problem each
	}{
		"empty table": {table: "CREATE TABLE outbox ()", want: []string{`no column "id"`, `no column "aggregatetype"`, `no column "aggregateid"`,
			`no column "type"`, `no column "payload"`}},
		"types": {table: "CREATE TABLE outbox (id int[], aggregatetype int, aggregateid bytea, type json, payload xml, headers hstoreless, created_at date)",
			want: []string{`column "id" of table public.outbox is of type _int4`, `"aggregatetype" of table public.outbox is of type int4`, `"aggregateid"`, `"type"`,
				`"payload"`, `"headers"`, `"created_at"`}},
		"mapped": {table: plainOutbox, columns: "id=event_id,headers=meta,created_at=at",
			want: []string{`no column "event_id"`, `no column "meta"`, `no column "at"`}},
		"generated": {table: "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json, headers jsonb GENERATED ALWAYS AS (NULL::jsonb) STORED)",
			want: []string{`column "headers" of table public.outbox is generated`}},
		"unlogged": {table: strings.Replace(plainOutbox, "TABLE", "UNLOGGED TABLE", 1), want: []string{"unlogged"}},
		"view":     {table: strings.Replace(plainOutbox, "outbox", "base", 1) + "CREATE VIEW outbox AS SELECT * FROM base", want: []string{"is no table"}},
		"foreign": {table: "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;" +
			strings.TrimSuffix(strings.Replace(plainOutbox, "TABLE", "FOREIGN TABLE", 1), ";") + " SERVER s", want: []string{"is no table"}},
		"partition": {table: strings.TrimSuffix(strings.Replace(plainOutbox, "outbox", "base", 1), ";") +
			" PARTITION BY LIST (type); CREATE TABLE outbox PARTITION OF base DEFAULT", want: []string{"is a partition of another table"}},
		"unlogged partition": {table: strings.TrimSuffix(plainOutbox, ";") + " PARTITION BY LIST (type); CREATE UNLOGGED TABLE p PARTITION OF outbox DEFAULT",
			want: []string{"1 partitions that are unlogged or foreign"}},
	} {
		t.Run(name, func(t *testing.T) {
			d.reset(t)
			d.exec(t, "CREATE TYPE hstoreless AS (a int);"+c.table)
			columns, err := setup.ParseColumns(c.columns)
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.apply(t, setup.Options{Columns: columns})
			for _, words := range c.want {
				wantProblem(t, err, setup.CodeTable, words)
			}
			if n := len(problems(err)); n != len(c.want) {
				t.Errorf("%d problems, want %d: %v", n, len(c.want), err)
			}
			d.unchanged(t)
		})
	}
}

func TestExistingTableAccepted(t *testing.T) {
	d := newDatabase(t)
	for name, table := range map[string]string{
		"plain":         plainOutbox,
		"Debezium's":    "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)",
		"domains":       "CREATE DOMAIN a AS text; CREATE DOMAIN kind AS a CHECK (VALUE <> ''); CREATE TABLE outbox (id bigint, aggregatetype kind, aggregateid uuid, type kind, payload bytea, headers json, created_at timestamp)",
		"partitioned":   strings.TrimSuffix(plainOutbox, ";") + " PARTITION BY LIST (type); CREATE TABLE p PARTITION OF outbox DEFAULT",
		"replayable":    "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json, seq bigint GENERATED ALWAYS AS IDENTITY, xid xid8 DEFAULT pg_current_xact_id())",
		"other type":    "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json, seq bigint, xid bigint)",
		"other columns": "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json, tenant int NOT NULL)",
	} {
		t.Run(name, func(t *testing.T) {
			d.reset(t)
			d.exec(t, table)
			out := d.mustApply(t, setup.Options{})
			if count(out, "already there", "table public.outbox: not made here") != 1 {
				t.Errorf("report:\n%s", out)
			}
			if got := strings.Contains(out, "replay --gap would need"); got == (name == "replayable") {
				t.Errorf("warned that a gap cannot be replayed: %t:\n%s", got, out)
			}
			if again := d.mustApply(t, setup.Options{}); count(again, "already there", "") != 5 {
				t.Errorf("second run:\n%s", again)
			}
		})
	}
}

func TestExistingPublication(t *testing.T) {
	d := newDatabase(t)
	const ours = "(id, aggregatetype, aggregateid, type, payload)"
	for name, c := range map[string]struct {
		publication string
		want        []string
	}{
		"good":           {"CREATE PUBLICATION pub FOR TABLE outbox WITH (publish = 'insert')", nil},
		"all tables":     {"CREATE PUBLICATION pub FOR ALL TABLES", nil},
		"in schema":      {"CREATE PUBLICATION pub FOR TABLES IN SCHEMA public", nil},
		"list":           {"CREATE PUBLICATION pub FOR TABLE outbox " + ours, nil},
		"no table":       {"CREATE PUBLICATION pub", []string{"does not cover table public.outbox"}},
		"other schema":   {"CREATE SCHEMA IF NOT EXISTS o; CREATE PUBLICATION pub FOR TABLES IN SCHEMA o", []string{"does not cover"}},
		"no insert":      {"CREATE PUBLICATION pub FOR TABLE outbox WITH (publish = 'update')", []string{"does not publish inserts"}},
		"list too short": {"CREATE PUBLICATION pub FOR TABLE outbox (id, aggregatetype, type)", []string{"leaves out columns of table public.outbox that the relay reads: aggregateid, payload"}},
		"filter":         {"CREATE PUBLICATION pub FOR TABLE outbox WHERE (type <> 'x') WITH (publish = 'insert')", []string{"filters the rows"}},
		"all at once": {"CREATE PUBLICATION pub FOR TABLE outbox (id) WHERE (id IS NOT NULL) WITH (publish = 'delete')",
			[]string{"does not publish inserts", "filters the rows", "leaves out columns"}},
	} {
		t.Run(name, func(t *testing.T) {
			d.reset(t)
			d.exec(t, plainOutbox+"ALTER TABLE outbox REPLICA IDENTITY FULL;"+c.publication)
			before := d.text(t, "SELECT xmin::text || oid::text FROM pg_publication")
			_, err := d.apply(t, setup.Options{Publication: "pub"})
			for _, words := range c.want {
				fix := wantProblem(t, err, cdc.CodePublicationGap, words)
				d.exec(t, fix) // the advice must be right
			}
			if n := len(problems(err)); n != len(c.want) {
				t.Fatalf("%d problems, want %d: %v", n, len(c.want), err)
			}
			if len(c.want) == 0 {
				if now := d.text(t, "SELECT xmin::text || oid::text FROM pg_publication"); now != before {
					t.Error("the publication was changed")
				}
			}
			d.mustApply(t, setup.Options{Publication: "pub"})
		})
	}
}

func TestPublicationOfPartitions(t *testing.T) {
	d := newDatabase(t)
	d.exec(t, strings.TrimSuffix(plainOutbox, ";")+` PARTITION BY LIST (type); CREATE TABLE p PARTITION OF outbox DEFAULT;
		CREATE PUBLICATION pub FOR TABLE outbox WITH (publish = 'insert')`)
	_, err := d.apply(t, setup.Options{Publication: "pub"})
	d.exec(t, wantProblem(t, err, cdc.CodePublicationGap, "under their own names"))
	d.mustApply(t, setup.Options{Publication: "pub"})
}

// The advice for a table that is busy includes the lock without which older
// servers lose rows.
func TestPublicationAdviceLocks(t *testing.T) {
	d := newDatabase(t)
	d.exec(t, plainOutbox+"CREATE PUBLICATION pub")
	_, err := d.apply(t, setup.Options{Publication: "pub"})
	want := `BEGIN; LOCK TABLE "public"."outbox" IN SHARE ROW EXCLUSIVE MODE; ALTER PUBLICATION "pub" ADD TABLE "public"."outbox" ` +
		`("id", "aggregatetype", "aggregateid", "type", "payload"); COMMIT;`
	if fix := wantProblem(t, err, cdc.CodePublicationGap, "does not cover"); fix != want {
		t.Errorf("fix: %s\nwant %s", fix, want)
	}
}

func TestPipelineProblems(t *testing.T) {
	d := newDatabase(t)
	d.mustApply(t, setup.Options{})
	pipeline, slot := d.text(t, "SELECT pipeline FROM outboxd.witness"), d.text(t, "SELECT slot FROM outboxd.witness")

	_, err := d.apply(t, setup.Options{Slot: "another", Publication: "another"})
	wantProblem(t, err, cdc.CodeConfigMismatch, "slot "+slot+", not another", "publication outboxd_"+pipeline+", not another")

	_, err = d.apply(t, setup.Options{Columns: setup.Columns{ID: "event_id"}, Table: "nowhere"})
	wantProblem(t, err, setup.CodeTable, "nowhere does not exist", "id=event_id")

	_, err = d.apply(t, setup.Options{Retention: 100 * time.Hour})
	wantProblem(t, err, cdc.CodeConfig, "hold 72h0m0s", "100h0m0s")

	_, err = d.apply(t, setup.Options{Pipeline: devtest.Name(t), Table: strings.Repeat("t", 61)})
	wantProblem(t, err, setup.CodeTable, "no room")

	d.exec(t, "UPDATE outboxd.witness SET system_id = '1'")
	_, err = d.apply(t, setup.Options{})
	wantProblem(t, err, cdc.CodeSystemChanged, "system identifier 1")
	d.exec(t, "UPDATE outboxd.witness SET system_id = (SELECT system_identifier::text FROM pg_control_system())")

	d.exec(t, "ALTER TABLE outbox RENAME TO moved")
	_, err = d.apply(t, setup.Options{})
	wantProblem(t, err, setup.CodeTable, "made by setup and is gone")
	d.exec(t, "ALTER TABLE moved RENAME TO outbox")

	d.exec(t, "INSERT INTO outboxd.schema_version (version_id, is_applied) VALUES (9999, true)")
	_, err = d.apply(t, setup.Options{})
	wantProblem(t, err, cdc.CodeVersion, "9999")
}

// A slot that is known to have existed is never made again.
func TestSlotMissing(t *testing.T) {
	d := newDatabase(t)
	d.mustApply(t, setup.Options{})
	pipeline, acked := d.text(t, "SELECT pipeline FROM outboxd.witness"), d.text(t, "SELECT acked_lsn::text FROM outboxd.witness")
	d.exec(t, "SELECT pg_drop_replication_slot(slot) FROM outboxd.witness")
	_, err := d.apply(t, setup.Options{})
	fix := wantProblem(t, err, cdc.CodeSlotMissing, "is gone", acked)
	if !strings.Contains(fix, "outboxd adopt --pipeline "+pipeline+", then outboxd replay --pipeline "+pipeline+" --gap") {
		t.Errorf("fix: %s", fix)
	}
	if n := d.text(t, "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); n != "0" {
		t.Fatal("the slot was made again")
	}
	if _, err := d.teardown(t, setup.TeardownOptions{Yes: true}, ""); err != nil {
		t.Fatal(err)
	}
	d.mustApply(t, setup.Options{})
}

func TestForeignSlots(t *testing.T) {
	d, other := newDatabase(t), newDatabase(t)
	slot := devtest.Name(t)
	d.exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'test_decoding')")
	_, err := d.apply(t, setup.Options{Slot: slot})
	wantProblem(t, err, cdc.CodeSlotWrong, "test_decoding")
	_, err = other.apply(t, setup.Options{Slot: slot})
	wantProblem(t, err, cdc.CodeSlotWrong, "database "+d.name)
	d.exec(t, "SELECT pg_drop_replication_slot('"+slot+"'); SELECT pg_create_physical_replication_slot('"+slot+"')")
	_, err = d.apply(t, setup.Options{Slot: slot})
	wantProblem(t, err, cdc.CodeSlotWrong, "physical")
	d.exec(t, "SELECT pg_drop_replication_slot('"+slot+"'); SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	_, err = other.apply(t, setup.Options{Slot: slot})
	wantProblem(t, err, cdc.CodeSlotWrong, "plugin pgoutput, database "+d.name)
	_, err = d.apply(t, setup.Options{Slot: slot})
	wantProblem(t, err, cdc.CodePublication, "slot", "exists and publication", "does not")
	d.unchanged(t)
}

// A server that is not ready, met by a role that may do nothing: everything is
// said at once.
func TestServerProblems(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{
		Settings: map[string]string{"wal_level": "replica", "max_replication_slots": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	d := openDatabase(t, devtest.DatabaseOn(t, server.URL("postgres", "postgres")))
	d.exec(t, plainOutbox+"SELECT pg_create_physical_replication_slot('last')")
	_, weakURL := d.role(t, "")
	_, err = d.apply(t, setup.Options{Database: weakURL})
	if fix := wantProblem(t, err, cdc.CodeWALLevel, "replica"); !strings.Contains(fix, "ALTER SYSTEM SET wal_level = 'logical'") || !strings.Contains(fix, "restart") {
		t.Errorf("fix: %s", fix)
	}
	wantProblem(t, err, cdc.CodePrivilege, "may not create a replication slot")
	wantProblem(t, err, cdc.CodePrivilege, "may not create a schema")
	wantProblem(t, err, cdc.CodePrivilege, "does not own table")
	wantProblem(t, err, setup.CodeServerLimit, "all 1 replication slots")
	if text := err.Error(); strings.Count(text, "fix: ") != 5 || !strings.Contains(text, "nothing was changed") {
		t.Errorf("the message:\n%s", text)
	}
	d.exec(t, "SELECT pg_drop_replication_slot('last')")
}

func TestTablePrivileges(t *testing.T) {
	d := newDatabase(t)
	weak, weakURL := d.role(t, "REPLICATION")
	d.exec(t, "REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON DATABASE "+d.name+" TO "+weak)
	_, err := d.apply(t, setup.Options{Database: weakURL})
	d.exec(t, strings.TrimPrefix(wantProblem(t, err, cdc.CodePrivilege, "may not create table public.outbox"), "as the schema's owner: "))
	_, err = d.apply(t, setup.Options{Database: weakURL, Table: "sales.outbox"})
	if fix := wantProblem(t, err, setup.CodeTable, "schema of table sales.outbox does not exist"); fix != `CREATE SCHEMA "sales"` {
		t.Errorf("fix: %s", fix)
	}
	// A role that is no superuser but has what it takes.
	d.mustApply(t, setup.Options{Database: weakURL})
	if _, err := d.teardown(t, setup.TeardownOptions{Yes: true, DropTables: true}, ""); err != nil {
		t.Fatal(err)
	}
	// What was not foreseen has a name all the same.
	d.exec(t, "ALTER SCHEMA outboxd OWNER TO CURRENT_USER; REVOKE ALL ON SCHEMA outboxd FROM "+weak)
	_, err = d.apply(t, setup.Options{Database: weakURL})
	wantProblem(t, err, cdc.CodePrivilege, "a privilege is missing")
}

func TestConnectProblems(t *testing.T) {
	d := newDatabase(t)
	for databaseURL, code := range map[string]cdc.Code{
		"postgres://u:hunter2@127.0.0.1:1/x":                            cdc.CodeUnreachable,
		strings.Replace(d.url, "/"+d.name, "/hunter2_is_not_there", 1):  cdc.CodeDatabaseMissing,
		"postgres://u:hunter2@%zz/x":                                    cdc.CodeConfig,
		"postgres://u:hunter2@127.0.0.1/x?sslmode=sometimes&password=a": cdc.CodeConfig,
	} {
		for _, err := range []error{
			setup.Apply(t.Context(), setup.Options{Database: databaseURL}, new(bytes.Buffer)),
			setup.Teardown(t.Context(), setup.TeardownOptions{Database: databaseURL}, new(bytes.Buffer), new(bytes.Buffer)),
		} {
			var named *cdc.Error
			if !errors.As(err, &named) || named.Code != code {
				t.Errorf("got %v, want %s", err, code)
			}
			if code != cdc.CodeDatabaseMissing && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %q", err)
			}
		}
	}
	_, err := d.apply(t, setup.Options{Payload: "xml", Retention: time.Second, SlotTimeout: -1, ServerVersion: 9})
	for _, word := range []string{"payload type", "retention", "slot timeout", "server version"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name the %s", err, word)
		}
	}
}
