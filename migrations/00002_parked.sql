-- +goose Up

-- Events that cannot be published, with those of their key that came after
-- them. Only the relay that holds the pipeline's witness inserts and deletes
-- rows; everybody else marks them. What an event holds is bytea, which no
-- encoding refuses; NULL there is NULL in the event.
CREATE TABLE outboxd.parked (
    pipeline      text COLLATE "C" NOT NULL,
    position      text COLLATE "C" NOT NULL,
    domain        bytea,
    destination   text        NOT NULL DEFAULT '',
    id            bytea,
    aggregatetype bytea,
    aggregateid   bytea,
    type          bytea,
    payload       bytea,
    headers       bytea,
    payload_kind  text        NOT NULL CHECK (payload_kind IN ('json', 'text', 'binary', 'raw')),
    created_at    timestamptz,
    commit_time   timestamptz NOT NULL,
    size          bigint      NOT NULL,
    reason        text        NOT NULL,
    detail        text        NOT NULL DEFAULT '',
    behind        boolean     NOT NULL DEFAULT false,
    attempts      integer     NOT NULL DEFAULT 0,
    state         text        NOT NULL DEFAULT 'parked' CHECK (state IN ('parked', 'retry', 'discard', 'discarded')),
    parked_at     timestamptz NOT NULL DEFAULT now(),
    marked_at     timestamptz,
    marked_by     text        NOT NULL DEFAULT '',
    note          text        NOT NULL DEFAULT '',
    PRIMARY KEY (pipeline, position)
);

CREATE INDEX parked_domain ON outboxd.parked (pipeline, domain, position) WHERE state <> 'discarded';
CREATE INDEX parked_marked ON outboxd.parked (pipeline, position) WHERE state IN ('retry', 'discard');

COMMENT ON TABLE outboxd.parked IS 'outboxd: events that cannot be published, and what waits behind them; see outboxd parked';
COMMENT ON COLUMN outboxd.parked.position IS 'epoch.commitLSN.ordinal of the event; compares as text';
COMMENT ON COLUMN outboxd.parked.domain IS 'hash of destination and key; NULL when no later event waits for this one';
COMMENT ON COLUMN outboxd.parked.behind IS 'nothing is wrong with the event itself: an earlier one of its key is parked';
COMMENT ON COLUMN outboxd.parked.state IS 'parked; retry or discard: marked, for the relay to work off; discarded: kept without payload and headers, for the record';
