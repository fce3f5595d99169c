// Package outbox is what a service imports to tell others what happened, so
// that they learn of it if and only if it happened.
//
// # The one rule
//
// Write the event in the transaction that makes it true:
//
//	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		if err := insertOrder(ctx, tx, order); err != nil {
//			return err
//		}
//		_, err := outbox.Write(ctx, tx, outbox.Event{
//			AggregateType: "order",
//			AggregateID:   order.ID,
//			Type:          "order.placed",
//			Payload:       order,
//		})
//		return err
//	})
//
// PostgreSQL then commits both or neither. The outboxd relay reads the commit
// from the write-ahead log and publishes the event to Kafka or RabbitMQ, at
// least once, in the order of the commits for each aggregate. The service
// itself never talks to a broker, and works on while the broker is away.
//
// The functions take a pgx.Tx, or an *sql.Tx where their names end in SQL. A
// pool or a connection does not compile: an event that commits by itself can
// be published although the state change failed, or be lost although it
// succeeded.
//
// # Events
//
// An Event is about one aggregate, a thing with an identity whose events must
// stay in order. AggregateType names the topic by default, AggregateID is the
// record's key. Order per aggregate is the order of commits: where two
// transactions may write events of the same aggregate at once, lock the
// aggregate's row before, as one has to for its state.
//
// The id is a UUIDv7 and comes back to the caller. It is the same each time the
// event is published, so that consumers can drop what they have seen. To give
// an event an id of your own, say the one of the request, set Event.ID.
//
// What is wrong with events is found before anything is sent, all of it at
// once, with the event and the field: see ValidationError.
//
// # Two ways to write, and their prices
//
// Write inserts into a table. Rows can be read, joined, replayed to a new
// consumer and read by other tools: the default table has the column names that
// Debezium's outbox router expects. It costs about two plain INSERTs for one
// event and a tenth of one for each of a hundred; rows stay for the retention
// that setup was given.
//
// Emit writes a logical message (pg_logical_emit_message) into the write-ahead
// log and nothing else. It costs about as much as a plain INSERT for one event
// and a thirtieth of one for each of a hundred; nothing has to be
// stored, vacuumed or cleaned up. In return:
//
//   - Nothing can be read again. There is no replay, and what was emitted while
//     no replication slot existed is lost.
//   - Any role that may log in may emit, in anyone's name, unless EXECUTE on
//     pg_logical_emit_message is revoked from PUBLIC and granted to those who
//     should. (SQL then has the function outboxd.emit, which setup makes.)
//   - Tests cannot look at it within the transaction (see package outboxtest).
//
// Take Write unless you know that you need the other. Both may be used side by
// side, also in one transaction; their events keep their order.
//
// Both take one round trip for any number of events: pass all events of a
// transaction to a single call where that is easy. They work through PgBouncer
// in transaction mode; with database/sql that depends on the driver's settings.
//
// # A table that exists already
//
// Table names the table, its columns and the type of its payload:
//
//	var events = outbox.Table{
//		Name:    "shop.domain_events",
//		Columns: outbox.Columns{ID: "event_id", AggregateType: "entity", Headers: outbox.NoColumn},
//		Payload: outbox.JSONB,
//	}
//
//	ids, err := events.Write(ctx, tx, placed, reserved)
//
// # Trace context
//
// Table.Propagate adds headers from the context, such as traceparent; see the
// example for OpenTelemetry, which this package does not import.
//
// # Other languages
//
// Whatever can run SQL can write events, in its own transactions:
//
//	INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers)
//	VALUES (gen_random_uuid(), 'order', '4711', 'order.placed', '{"total": 12.50}', '{"tenant": "acme"}');
//
// headers may be NULL or left out; a NULL payload is a tombstone. The same
// without a table:
//
//	SELECT pg_logical_emit_message(true, 'outboxd', json_build_object(
//	         'id', gen_random_uuid(), 'aggregatetype', 'order', 'aggregateid', 4711,
//	         'type', 'order.placed', 'payload', json_build_object('total', 12.50))::text);
//
// The first argument must be true: other messages survive a ROLLBACK. The
// format has room for several events and for payloads that are not JSON:
//
//	{
//	  "v": 1,
//	  "time": "2026-11-24T20:15:00.123456Z",
//	  "events": [
//	    {
//	      "id": "0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44",
//	      "aggregatetype": "order",
//	      "aggregateid": "4711",
//	      "type": "order.placed",
//	      "payload": {"total": 12.50},
//	      "headers": {"tenant": "acme"}
//	    }
//	  ]
//	}
//
// A message with a single event may be that event alone, with v and time among
// its members. The members:
//
//   - v: the version of the format, 1. May be absent.
//   - time: when the events happened, RFC 3339. Absent: the commit's time.
//   - id: a UUID. Required.
//   - aggregatetype, type: strings, not empty. Required.
//   - aggregateid: a string, or a number taken as it is written. Absent: the
//     event has no key.
//   - payload: any JSON value; its text, without the space around it, is the
//     payload. Absent: a NULL payload.
//   - payload_base64: instead of payload, any bytes in standard base64; line
//     breaks are allowed. This is also the way for the JSON text null.
//   - headers: an object. A string stands for itself, a number or boolean for
//     its text.
//
// A member that is null is a member that is absent. One that is unknown or given
// twice makes the whole message malformed: a misspelt name must not lose data
// in silence. DecodeMessage is what the relay reads it with.
package outbox
