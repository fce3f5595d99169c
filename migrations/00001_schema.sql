-- +goose Up

-- The witness: one row a pipeline, rewritten at most once a second. A low
-- fillfactor leaves the page to HOT updates and early vacuums reclaim it, so
-- that the table stays at one page and its index is never touched.
CREATE TABLE outboxd.witness (
    pipeline                text        PRIMARY KEY,
    system_id               text        NOT NULL,
    timeline                integer     NOT NULL,
    epoch                   integer     NOT NULL CHECK (epoch BETWEEN 1 AND 65535),
    slot                    text        NOT NULL,
    publication             text        NOT NULL,
    outbox_table            text        NOT NULL DEFAULT '',
    config_hash             text        NOT NULL DEFAULT '',
    publication_fingerprint text        NOT NULL DEFAULT '',
    replay_floor            text        NOT NULL DEFAULT '0',
    acked_lsn               pg_lsn      NOT NULL,
    acked_commit            pg_lsn      NOT NULL DEFAULT '0/0',
    acked_events            bigint      NOT NULL DEFAULT 0,
    checked_lsn             pg_lsn      NOT NULL DEFAULT '0/0',
    version                 bigint      NOT NULL DEFAULT 0,
    holder                  text        NOT NULL DEFAULT '',
    updated_at              timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

COMMENT ON TABLE outboxd.witness IS 'outboxd: how far each pipeline got; written before a position is confirmed to its slot';
COMMENT ON COLUMN outboxd.witness.outbox_table IS 'schema.name; empty when the pipeline reads messages only';
COMMENT ON COLUMN outboxd.witness.replay_floor IS 'xid8: every event that may not have been relayed has this xid or a later one';
COMMENT ON COLUMN outboxd.witness.acked_lsn IS 'everything before it is acked by the broker';
COMMENT ON COLUMN outboxd.witness.checked_lsn IS 'acked_lsn when the publication was last found to be what it was';
COMMENT ON COLUMN outboxd.witness.acked_events IS 'how many events of the transaction that commits at acked_commit are acked';

-- The rings: one row for each outbox table that setup made. A row written at
-- time t, in seconds since 1970 UTC, goes to partition
-- floor(t / width_seconds) % buckets.
CREATE TABLE outboxd.ring (
    outbox_table  text    PRIMARY KEY,
    buckets       integer NOT NULL CHECK (buckets >= 4),
    width_seconds bigint  NOT NULL CHECK (width_seconds > 0)
);

COMMENT ON TABLE outboxd.ring IS 'outboxd: the partition ring of each outbox table, fixed when the table is made';

-- A UUIDv7 for servers that cannot make one (before 18): a version 4 UUID
-- whose first 48 bits are replaced by milliseconds since 1970, and whose
-- version goes from 4 to 7 by setting two bits.
-- +goose StatementBegin
CREATE FUNCTION outboxd.uuidv7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $function$
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    PLACING substring(int8send(floor(date_part('epoch', clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid
$function$;
-- +goose StatementEnd

-- One event as a logical message: no table, no replay. The definer is the
-- owner of the schema, so that EXECUTE on pg_logical_emit_message can be
-- revoked from everybody else.
-- +goose StatementBegin
CREATE FUNCTION outboxd.emit(
    aggregatetype text,
    aggregateid   text,
    type          text,
    payload       json,
    headers       jsonb DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    event_id uuid := outboxd.uuidv7();
BEGIN
    -- What the relay could never publish must fail here, before the commit.
    IF coalesce(aggregatetype, '') = '' OR coalesce(aggregateid, '') = '' OR coalesce(type, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'outboxd.emit: aggregatetype, aggregateid and type must be neither null nor empty';
    END IF;
    PERFORM pg_logical_emit_message(true, 'outboxd', json_build_object(
        'v', 1,
        'time', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'id', event_id,
        'aggregatetype', aggregatetype,
        'aggregateid', aggregateid,
        'type', type,
        'payload', payload,
        'headers', headers)::text);
    RETURN event_id;
END
$function$;
-- +goose StatementEnd

COMMENT ON FUNCTION outboxd.emit IS 'outboxd: one event as a transactional logical message, without a table';

-- Nobody gets anything by default; setup grants to the roles it is given.
REVOKE ALL ON SCHEMA outboxd FROM PUBLIC;
REVOKE ALL ON FUNCTION outboxd.uuidv7, outboxd.emit FROM PUBLIC;
