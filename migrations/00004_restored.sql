-- +goose Up

-- What a relay that lived through it, or an operator, knows of a database that
-- was restored to an earlier state, and the database itself cannot know.
ALTER TABLE outboxd.witness ADD COLUMN published_position text NOT NULL DEFAULT '';

COMMENT ON COLUMN outboxd.witness.published_position IS 'epoch.commitLSN.ordinal up to which was published before the database was restored to an earlier state, which nobody has accepted yet; empty: it was not';
