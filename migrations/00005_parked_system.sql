-- +goose Up

-- The cluster that a parked event's position is one of. After a failover, in the
-- next epoch, the server may send the event again: in the same cluster it then
-- stands at the same LSN, in another one that LSN is something else's.
ALTER TABLE outboxd.parked ADD COLUMN system_id text NOT NULL DEFAULT '';

COMMENT ON COLUMN outboxd.parked.system_id IS 'system identifier of the cluster in which the event has its position; empty: not known';
