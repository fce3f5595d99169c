package cdc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// scenario writes everything that a server can send in protocol 1. Explicit
// ids and times keep recordings of one server version alike.
var scenario = []string{
	`CREATE TABLE outbox (
		id uuid NOT NULL, aggregatetype varchar(100) NOT NULL, aggregateid text NOT NULL, type text NOT NULL,
		payload json, headers jsonb, created_at timestamptz NOT NULL, bucket smallint NOT NULL,
		seq bigint NOT NULL, xid xid8 NOT NULL) PARTITION BY LIST (bucket)`,
	`CREATE TABLE outbox_0 PARTITION OF outbox FOR VALUES IN (0)`,
	`CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES IN (1)`,
	`CREATE TABLE events (id int PRIMARY KEY, body bytea, note text)`,
	`ALTER TABLE events ALTER body SET STORAGE EXTERNAL`,
	`CREATE TYPE mood AS ENUM ('sad', 'glad')`,
	`CREATE DOMAIN sku AS varchar(12) CHECK (VALUE <> '')`,
	`CREATE TABLE moods (m mood, s sku, d date, b bool, o oid, t timestamp)`,
	`CREATE TABLE private (id int)`,
	`CREATE PUBLICATION recorded FOR TABLE outbox, events, moods WITH (publish_via_partition_root = true)`,
	`SELECT pg_create_logical_replication_slot('%s', 'pgoutput')`,

	// Two partitions, the second row with nothing that may be missing.
	`BEGIN; INSERT INTO outbox VALUES
		('01920f3c-7e11-7abc-8def-000000000001', 'order', 'o-1', 'placed', '{"a" : 1, "a": "\u0000 \u00e9 é 🙂 ''"}', '{"traceparent": "00-1-2-01"}', '2026-10-05 14:03:02.123456+02', 0, 1, '7'),
		('01920f3c-7e11-7abc-8def-000000000002', 'order', 'o-1', 'paid', NULL, NULL, '2026-10-05 14:03:02+00', 1, 2, '4294967303');
	 COMMIT`,
	`BEGIN; SELECT pg_logical_emit_message(true, 'outboxd', '{"events":[]}');
	 SELECT pg_logical_emit_message(false, 'elsewhere', E'raw\\000bytes'::bytea); COMMIT`,
	`BEGIN; INSERT INTO events VALUES (1, '\x00ff', 'kept in the WAL'); DELETE FROM events WHERE id = 1; COMMIT`,
	`BEGIN; INSERT INTO events VALUES (2, '', ''); SAVEPOINT s; INSERT INTO events VALUES (3, NULL, 'never');
	 ROLLBACK TO s; INSERT INTO events VALUES (4, NULL, NULL); COMMIT`,
	`BEGIN; INSERT INTO events VALUES (5, NULL, 'never'); ROLLBACK`,
	`INSERT INTO private VALUES (1)`,
	`INSERT INTO moods VALUES ('glad', 'sku-1', '0044-03-15 BC', true, 16384, '2026-10-05 14:03:02.5'), (NULL, NULL, 'infinity', false, 0, '-infinity')`,

	// The relation changes in the middle of a transaction, and again later.
	`BEGIN; INSERT INTO events VALUES (6, NULL, 'before'); ALTER TABLE events ADD COLUMN extra uuid;
	 INSERT INTO events VALUES (7, NULL, 'after', '01920f3c-7e11-7abc-8def-000000000007'); COMMIT`,
	`ALTER TABLE events RENAME COLUMN note TO remark`,
	`INSERT INTO events VALUES (8, NULL, 'renamed')`,
	`ANALYZE events`, // describes the same relation again
	`INSERT INTO events VALUES (9, NULL, 'analyzed')`,

	// What an outbox never does.
	`INSERT INTO events VALUES (10, decode(repeat('ab', 3000), 'hex'), 'toasted')`,
	`UPDATE events SET remark = 'unchanged' WHERE id = 10`,
	`UPDATE events SET id = 11 WHERE id = 10`,
	`ALTER TABLE events REPLICA IDENTITY FULL`,
	`UPDATE events SET remark = 'full' WHERE id = 4`,
	`DELETE FROM events WHERE id = 4`,
	`TRUNCATE events, moods`,

	`SELECT pg_replication_origin_create('%s')`,
	`SELECT pg_replication_origin_session_setup('%s')`,
	`INSERT INTO events VALUES (12, NULL, 'from elsewhere')`,
	`SELECT pg_replication_origin_session_reset()`,
}

// copied is written with COPY: rows that share one LSN.
const copied = "21\t\\\\x01\tone\t\\N\n22\t\\\\x02\ttwo\t\\N\n23\t\\\\x03\tthree\t\\N\n"

// recordScenario runs the scenario in the database and returns what the server
// sends of it, in text and in binary format.
func recordScenario(t *testing.T, url string) (text, binary [][]byte) {
	t.Helper()
	ctx := t.Context()
	slot := devtest.Name(t)
	conn := connect(t, url)
	for _, sql := range scenario {
		run(t, conn, strings.ReplaceAll(sql, "%s", slot))
	}
	if _, err := conn.PgConn().CopyFrom(ctx, strings.NewReader(copied), "COPY events FROM STDIN"); err != nil {
		t.Fatal(err)
	}
	run(t, conn, `SELECT pg_replication_origin_drop('`+slot+`')`)
	text = receive(t, url, slot, "recorded", false)
	binary = receive(t, url, slot, "recorded", true)
	return text, binary
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func run(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if err := conn.PgConn().Exec(t.Context(), sql).Close(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// receive returns all pgoutput messages that the slot holds, without confirming
// any, so that the next call returns them again.
func receive(t *testing.T, url, slot, publication string, binary bool) [][]byte {
	t.Helper()
	const end = "end of recording"
	run(t, connect(t, url), `SELECT pg_logical_emit_message(true, '`+end+`', '')`)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn := startReplication(t, ctx, url, slot, publication, binary)
	defer conn.Close(ctx)

	var messages [][]byte
	d := newDecoder()
	ended := false
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		data, ok := message.(*pgproto3.CopyData)
		if !ok {
			t.Fatalf("received %T: %+v", message, message)
		}
		var e envelope
		if err := decodeEnvelope(data.Data, &e); err != nil {
			t.Fatal(err)
		}
		if e.kind == 'k' {
			continue
		}
		messages = append(messages, slices.Clone(e.data))
		var f frame
		if err := d.decode(e.data, &f); err != nil {
			t.Fatalf("decode %x: %v", e.data, err)
		}
		ended = ended || f.kind == 'M' && string(f.prefix) == end
		if ended && f.kind == 'C' {
			return messages[:len(messages)-3] // without the transaction of the end
		}
	}
}

// startReplication begins a session with the settings that sessions have.
func startReplication(t *testing.T, ctx context.Context, url, slot, publication string, binary bool) *pgconn.PgConn {
	t.Helper()
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	const settings = `SET client_encoding = 'UTF8'; SET DateStyle = 'ISO'; SET TimeZone = 'UTC'; SET bytea_output = 'hex'`
	if err := conn.Exec(ctx, settings).Close(); err != nil {
		t.Fatal(err)
	}
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{
		"proto_version '1'", "messages 'true'",
		fmt.Sprintf("publication_names '%s'", publication),
		fmt.Sprintf("binary '%t'", binary),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// column returns the only column of a query's rows.
func column[T any](t *testing.T, conn *pgx.Conn, sql string) []T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return values
}
