-- +goose Up

-- What an operator accepted and what that left to be done. These columns are
-- not the relay's: adopt, replay and skip write them.
ALTER TABLE outboxd.witness
    ADD COLUMN gap_floor     text NOT NULL DEFAULT '',
    ADD COLUMN skip_position text NOT NULL DEFAULT '';

COMMENT ON COLUMN outboxd.witness.gap_floor IS 'xid8: a gap was accepted and is to be replayed, every event in it has this xid or a later one; empty: there is none';
COMMENT ON COLUMN outboxd.witness.skip_position IS 'epoch.commitLSN.ordinal of the one event that is not to be published; empty: there is none';

-- Who went over what. Roles that may add a row give neither its time nor their
-- name, and change none.
CREATE TABLE outboxd.audit (
    pipeline      text        NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    who           text        NOT NULL DEFAULT session_user || coalesce(' at ' || host(inet_client_addr()), ''),
    action        text        NOT NULL,
    from_position text        NOT NULL,
    to_position   text        NOT NULL,
    reason        text        NOT NULL
);

COMMENT ON TABLE outboxd.audit IS 'outboxd: every gap that was accepted, replayed or given up, and every event that was skipped';
