package setup_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/outbox"
)

// testRoles logs in as the roles that setup granted to: what they need works,
// and what they do not need is refused.
func testRoles(t *testing.T, d *database) {
	relay, relayURL := d.role(t, "REPLICATION")
	app, appURL := d.role(t, "")
	// On a database whose owner has locked the public door.
	d.exec(t, "REVOKE ALL ON DATABASE "+d.name+" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")
	out := d.mustApply(t, setup.Options{RelayRole: relay, AppRole: app, Retention: time.Minute})
	if count(out, "granted", relay) != 1 || count(out, "granted", app) != 1 {
		t.Errorf("no word of the grants:\n%s", out)
	}
	t.Run("app", func(t *testing.T) { testApp(t, dial(t, appURL)) })
	t.Run("relay", func(t *testing.T) { testRelay(t, d, relayURL) })
	if _, err := d.teardown(t, setup.TeardownOptions{Yes: true, DropTables: true}, ""); err != nil {
		t.Error(err)
	}
}

func testApp(t *testing.T, conn *pgx.Conn) {
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	event := outbox.Event{AggregateType: "order", AggregateID: "7", Type: "OrderPlaced", Payload: []byte(`{}`)}
	_, err = outbox.Write(t.Context(), tx, event, event)
	if err = errors.Join(err, tx.Commit(t.Context())); err != nil {
		t.Errorf("write as the services' role: %v", err)
	}
	allowed(t, conn, "SELECT outboxd.publish('order', '7', 'OrderPlaced', '{}')")
	allowed(t, conn, "SELECT outboxd.emit('order', '7', 'OrderPlaced', '{}')")
	for _, sql := range []string{
		"SELECT id FROM outbox", "UPDATE outbox SET type = 'x'", "DELETE FROM outbox", "TRUNCATE outbox", "TRUNCATE outbox_b0",
		"INSERT INTO outbox (id, aggregatetype, aggregateid, type, bucket) VALUES (gen_random_uuid(), 'a', 'b', 'c', 0)",
		"INSERT INTO outbox (id, aggregatetype, aggregateid, type, xid) VALUES (gen_random_uuid(), 'a', 'b', 'c', '3')",
		"INSERT INTO outbox (id, aggregatetype, aggregateid, type, seq) OVERRIDING SYSTEM VALUE VALUES (gen_random_uuid(), 'a', 'b', 'c', 1)",
		"INSERT INTO outbox (id, aggregatetype, aggregateid, type, created_at) VALUES (gen_random_uuid(), 'a', 'b', 'c', 'infinity')",
		"INSERT INTO outbox_b0 (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'a', 'b', 'c')",
		"SELECT * FROM outboxd.witness", "UPDATE outboxd.witness SET acked_lsn = 'F/0'", "SELECT * FROM outboxd.ring",
		"SELECT * FROM outboxd.schema_version", "SELECT * FROM outboxd.parked", "UPDATE outboxd.parked SET state = 'retry'",
		"CREATE TABLE outboxd.mine (a int)", "CREATE TABLE public.mine (a int)",
		"SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
	} {
		denied(t, conn, sql)
	}
}

func testRelay(t *testing.T, d *database, relayURL string) {
	stream := d.follow(t, relayURL)
	relation, row := stream.insert(t)
	if !bytes.Contains(relation, []byte("public\x00outbox\x00")) {
		t.Errorf("rows are published as those of %q, want the partitioned table", relation)
	}
	if !bytes.Contains(row, []byte("OrderPlaced")) {
		t.Errorf("the row is %q", row)
	}
	if lists := d.text(t, "SHOW server_version_num") >= "150000"; lists == bytes.Contains(relation, []byte("bucket\x00")) {
		t.Errorf("published columns: %q; bucket only before 15", relation)
	}
	stream.stop(t)

	conn := dial(t, relayURL)
	for _, sql := range []string{
		"UPDATE outboxd.witness SET acked_lsn = acked_lsn + 1, version = version + 1, updated_at = now()",
		"INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, acked_lsn) VALUES ('other', '1', 1, 1, 's', 'p', '0/1')",
		"INSERT INTO outboxd.parked (pipeline, position, payload_kind, commit_time, size, reason) VALUES ('p', '1', 'json', now(), 1, 'x')",
		"UPDATE outboxd.parked SET state = 'retry'", "SELECT * FROM outboxd.parked", "DELETE FROM outboxd.parked",
		"SELECT buckets FROM outboxd.ring", "SELECT version_id FROM outboxd.schema_version", "SELECT id FROM outbox WHERE xid >= '0' ORDER BY seq",
	} {
		allowed(t, conn, sql)
	}
	d.exec(t, "DELETE FROM outboxd.witness WHERE pipeline = 'other'")
	// The oldest bucket of a ring of 12 s is one that nothing was written to.
	d.exec(t, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, bucket) SELECT gen_random_uuid(), 'a', 'b', 'c', b FROM generate_series(0, 7) b;
		UPDATE outboxd.witness SET acked_lsn = 'FFFFFFFF/0'`)
	rotator := retention.NewRotator("public.outbox")
	eventually(t, "rotation as the relay's role", func() bool {
		result, err := rotator.Rotate(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		return result.Outcome == retention.Truncated
	})
	for _, sql := range []string{
		"DELETE FROM outboxd.witness", "TRUNCATE outboxd.witness", "UPDATE outboxd.ring SET buckets = 9", "DELETE FROM outboxd.schema_version",
		"INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'a', 'b', 'c')",
		"UPDATE outbox SET type = 'x'", "DELETE FROM outbox", "TRUNCATE outbox", "DROP TABLE outbox_b0", "DELETE FROM outbox_b0", "UPDATE outbox_b0 SET type = 'x'",
		"INSERT INTO outbox_b0 (id, aggregatetype, aggregateid, type, bucket) VALUES (gen_random_uuid(), 'a', 'b', 'c', 0)", "ALTER TABLE outbox_b0 ADD COLUMN a int",
		"SELECT outboxd.emit('order', '7', 'OrderPlaced', '{}')", "SELECT outboxd.publish('order', '7', 'OrderPlaced', '{}')",
		"CREATE TABLE outboxd.mine (a int)", "DROP PUBLICATION " + quoted(d.text(t, "SELECT publication FROM outboxd.witness")),
	} {
		denied(t, conn, sql)
	}
}

func quoted(identifier string) string { return pgx.Identifier{identifier}.Sanitize() }

// Privileges on a table that was there before: only the columns that exist, no
// truncation.
func TestRolesOnExistingTable(t *testing.T) {
	d := newDatabase(t)
	relay, relayURL := d.role(t, "REPLICATION")
	app, appURL := d.role(t, "")
	d.exec(t, "CREATE TABLE events (event_id uuid, kind text, aggregateid text, type text, payload jsonb, extra int)")
	columns, err := setup.ParseColumns("id=event_id,aggregatetype=kind")
	if err != nil {
		t.Fatal(err)
	}
	d.mustApply(t, setup.Options{Table: "events", Columns: columns, RelayRole: relay, AppRole: app})
	service := dial(t, appURL)
	allowed(t, service, "INSERT INTO events (event_id, kind, aggregateid, type, payload) VALUES (gen_random_uuid(), 'a', 'b', 'c', '{}')")
	denied(t, service, "INSERT INTO events (extra) VALUES (1)")
	denied(t, service, "SELECT event_id FROM events")
	allowed(t, dial(t, relayURL), "SELECT event_id FROM events")
	denied(t, dial(t, relayURL), "TRUNCATE events")
	if d.text(t, "SHOW server_version_num") >= "150000" {
		if got := d.text(t, "SELECT array_to_string(attnames, ',') FROM pg_publication_tables WHERE tablename = 'events'"); got != "event_id,kind,aggregateid,type,payload" {
			t.Errorf("published columns: %s", got)
		}
	}
}

func TestRolesMustExist(t *testing.T) {
	d := newDatabase(t)
	weak, _ := d.role(t, "")
	_, err := d.apply(t, setup.Options{RelayRole: weak, AppRole: "no one"})
	if fix := wantProblem(t, err, cdc.CodePrivilege, weak, "REPLICATION"); fix != `as a superuser: ALTER ROLE "`+weak+`" LOGIN REPLICATION` {
		t.Errorf("fix: %s", fix)
	}
	if fix := wantProblem(t, err, setup.CodeRole, `"no one"`); fix != `CREATE ROLE "no one" LOGIN PASSWORD '…'` {
		t.Errorf("fix: %s", fix)
	}
}
