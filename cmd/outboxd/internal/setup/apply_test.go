package setup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// The whole life of a pipeline, on every server that is promised.
func TestEveryVersion(t *testing.T) {
	for _, version := range devenv.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{Version: version})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Close() })
			d := openDatabase(t, devtest.DatabaseOn(t, server.URL("postgres", "postgres")))
			t.Run("setup", func(t *testing.T) { testSetup(t, d) })
			t.Run("functions", func(t *testing.T) { testFunctions(t, d) })
			t.Run("teardown", func(t *testing.T) { testTeardown(t, d) })
			t.Run("roles", func(t *testing.T) { testRoles(t, d) })
			t.Run("printed", func(t *testing.T) {
				testPrinted(t, openDatabase(t, devtest.DatabaseOn(t, server.URL("postgres", "postgres"))))
			})
		})
	}
}

func testSetup(t *testing.T, d *database) {
	names, err := setup.Names(d.name, "", "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	out := d.mustApply(t, setup.Options{})
	for what, name := range map[string]string{
		"migrated": "schema outboxd", "created  ": "replication slot " + names.Slot,
	} {
		if count(out, what, name) != 1 {
			t.Errorf("no line says %q of %q:\n%s", what, name, out)
		}
	}
	if n := count(out, "created", ""); n != 4 {
		t.Errorf("%d lines say created, want table, publication, slot and pipeline:\n%s", n, out)
	}

	again := d.mustApply(t, setup.Options{})
	if n := count(again, "already there", ""); n != 5 || strings.Contains(again, "created") || strings.Contains(again, "migrated") {
		t.Errorf("the second run changed something:\n%s", again)
	}

	slot := d.text(t, "SELECT concat_ws(' ', plugin, database, temporary, confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = $1", names.Slot)
	witness := d.text(t, `SELECT concat_ws(' ', 'pgoutput', current_database(), false, acked_lsn) FROM outboxd.witness
		WHERE pipeline = $1 AND slot = $2 AND publication = $3 AND outbox_table = 'public.outbox' AND epoch = 1 AND timeline = 1
		AND system_id = (SELECT system_identifier::text FROM pg_control_system())`, names.Pipeline, names.Slot, names.Publication)
	if slot != strings.ReplaceAll(witness, " false ", " f ") {
		t.Errorf("slot %q and witness %q differ", slot, witness)
	}
	if d.text(t, "SHOW server_version_num") >= "170000" {
		if failover := d.text(t, "SELECT failover::text FROM pg_replication_slots WHERE slot_name = $1", names.Slot); failover != "true" {
			t.Error("the slot was made without failover")
		}
	}
	if sealed := d.text(t, "SELECT publication_fingerprint FROM outboxd.witness"); sealed == "" {
		t.Error("a change of the publication before the first session would go unnoticed")
	}
	if n := d.text(t, "SELECT count(*)::text FROM pg_inherits WHERE inhparent = 'public.outbox'::regclass"); n != "8" {
		t.Errorf("%s partitions, want 8", n)
	}
	eventually(t, "the locks are released", func() bool {
		return d.text(t, "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'") == "0"
	})
}

func testFunctions(t *testing.T, d *database) {
	id := d.text(t, `SELECT outboxd.publish('order', '7', 'OrderPlaced', '{"n":  1.10}', '{"traceparent": "x"}')::text`)
	row := d.text(t, `SELECT concat_ws('|', id, aggregatetype, aggregateid, type, payload, headers, xid = pg_current_xact_id_if_assigned(),
		created_at BETWEEN now() - interval '1 minute' AND now() + interval '1 minute',
		bucket = floor(extract(epoch FROM created_at) / 51840)::bigint % 8) FROM outbox WHERE id = $1::uuid`, id)
	if want := id + `|order|7|OrderPlaced|{"n":  1.10}|{"traceparent": "x"}|t|t`; row != want {
		t.Errorf("got  %s\nwant %s", row, want)
	}
	testEmit(t, d)
	if _, err := d.conn.Exec(t.Context(), "SELECT outboxd.publish('order', NULL, 'OrderPlaced', '{}')"); err == nil {
		t.Error("an event without aggregate id was accepted")
	}
	tx, err := d.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = outbox.Write(t.Context(), tx, outbox.Event{AggregateType: "order", AggregateID: "8", Type: "OrderPlaced", Payload: []byte(`{}`)})
	if err = errors.Join(err, tx.Commit(t.Context())); err != nil {
		t.Errorf("outbox.Write into the table of setup: %v", err)
	}
}

// testEmit reads back what outboxd.emit wrote with the relay's own decoder.
func testEmit(t *testing.T, d *database) {
	id := d.text(t, `SELECT outboxd.emit('order', '7', 'OrderPlaced', '{"n":  1.10, "n": 2}', '{"traceparent": "x"}')::text`)
	var content []byte
	err := d.conn.QueryRow(t.Context(), `SELECT data FROM outboxd.witness, pg_logical_slot_peek_binary_changes(slot, NULL, NULL,
		'proto_version', '1', 'publication_names', quote_ident(publication), 'messages', 'true') WHERE get_byte(data, 0) = ascii('M')`).Scan(&content)
	if err != nil {
		t.Fatal(err)
	}
	head := len("M") + 1 + 8 + len(outbox.MessagePrefix) + 1 + 4 // flags, LSN, prefix, length
	m, err := outbox.DecodeMessage(content[head:])
	if err != nil || len(m.Events) != 1 {
		t.Fatalf("decode %q: %v", content[head:], err)
	}
	e := m.Events[0]
	got := fmt.Sprint(e.ID, e.AggregateType, e.AggregateID, e.Type, string(e.Payload), e.Headers)
	if want := fmt.Sprint(id, "order", "7", "OrderPlaced", `{"n":  1.10, "n": 2}`, []outbox.Header{{Name: "traceparent", Value: "x"}}); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if age := time.Since(m.Time); age < -time.Minute || age > time.Minute {
		t.Errorf("the message is of %s", m.Time)
	}
}

// Rows spread over the ring by the time of day in no time zone.
func TestBucketIgnoresTimeZone(t *testing.T) {
	d := newDatabase(t)
	d.mustApply(t, setup.Options{Retention: time.Hour})
	d.mustApply(t, setup.Options{}) // not asked for, so what the table has is right
	d.exec(t, "SET TimeZone = 'Pacific/Kiritimati'; SELECT outboxd.publish('order', '7', 'OrderPlaced', '{}')")
	if ok := d.text(t, `SELECT (bucket = floor(extract(epoch FROM created_at) / 720)::bigint % 8)::text FROM outbox`); ok != "true" {
		t.Error("the bucket is not the one of UTC")
	}
}

func TestPayloadTypes(t *testing.T) {
	d := newDatabase(t)
	for _, typ := range []outbox.PayloadType{outbox.JSON, outbox.JSONB, outbox.Text, outbox.Bytea} {
		t.Run(string(typ), func(t *testing.T) {
			d.reset(t)
			d.mustApply(t, setup.Options{Payload: typ})
			d.exec(t, "SELECT outboxd.publish('order', '7', 'OrderPlaced', '{}')")
			if got := d.text(t, "SELECT pg_typeof(payload)::text FROM outbox"); got != string(typ) {
				t.Errorf("the payload is %s", got)
			}
		})
	}
}

func TestManyAtOnce(t *testing.T) {
	d := newDatabase(t)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = setup.Apply(context.Background(), setup.Options{Database: d.url}, new(strings.Builder))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := d.text(t, "SELECT count(*)::text FROM outboxd.witness"); n != "1" {
		t.Errorf("%s witnesses", n)
	}
}

// Two brokers are two pipelines on one table; another table has its own ring
// and function.
func TestSeveralPipelines(t *testing.T) {
	d := newDatabase(t)
	d.mustApply(t, setup.Options{})
	second := setup.Options{Pipeline: devtest.Name(t)}
	if out := d.mustApply(t, second); count(out, "already there", "table public.outbox") != 1 || count(out, "created", "slot") != 1 {
		t.Errorf("second pipeline:\n%s", out)
	}
	d.exec(t, "CREATE SCHEMA sales")
	other := setup.Options{Table: "sales.Out Box", Pipeline: devtest.Name(t), Retention: time.Hour}
	d.mustApply(t, other)
	d.exec(t, "SELECT outboxd.publish_"+other.Pipeline+`('order', '7', 'OrderPlaced', '{}')`)
	if n := d.text(t, `SELECT count(*)::text FROM sales."Out Box"`); n != "1" {
		t.Errorf("%s rows in the other table", n)
	}
	if n := d.text(t, "SELECT count(*)::text FROM outbox"); n != "0" {
		t.Errorf("%s rows in the first table", n)
	}
	if out := d.mustApply(t, other); count(out, "already there", "") != 5 {
		t.Errorf("third run:\n%s", out)
	}
}

func TestAdoptsSlot(t *testing.T) {
	d := newDatabase(t)
	slot := devtest.Name(t)
	d.exec(t, "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json); CREATE PUBLICATION mine FOR TABLE outbox")
	d.exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	position := d.text(t, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", slot)
	d.exec(t, "INSERT INTO outbox (id) VALUES (gen_random_uuid())")
	out := d.mustApply(t, setup.Options{Slot: slot, Publication: "mine"})
	if count(out, "already there", "adopted at its position "+position) != 1 {
		t.Errorf("the report does not say that the slot was adopted:\n%s", out)
	}
	if acked := d.text(t, "SELECT acked_lsn::text FROM outboxd.witness"); acked != position {
		t.Errorf("the witness begins at %s, the slot at %s", acked, position)
	}
}

// A setup that was cut off anywhere goes on where it stopped.
func TestGoesOnAfterInterruption(t *testing.T) {
	full := newDatabase(t)
	full.mustApply(t, setup.Options{})
	for _, undo := range []string{
		"DELETE FROM outboxd.witness",
		"DELETE FROM outboxd.witness; SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
		"DELETE FROM outboxd.witness; SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();" +
			"DO $$DECLARE p text; BEGIN FOR p IN SELECT pubname FROM pg_publication LOOP EXECUTE 'DROP PUBLICATION ' || p; END LOOP; END$$",
	} {
		full.exec(t, undo)
		full.mustApply(t, setup.Options{})
		if n := full.text(t, `SELECT count(*)::text FROM outboxd.witness w JOIN pg_replication_slots s ON s.slot_name = w.slot
			JOIN pg_publication p ON p.pubname = w.publication WHERE s.confirmed_flush_lsn = w.acked_lsn`); n != "1" {
			t.Errorf("after %s: the pipeline is not whole", undo)
		}
	}
}
