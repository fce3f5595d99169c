-- Is a relay dead? Asked of the database, because a process that is gone exports
-- no metrics. Each of the two queries returns one row for each thing that is
-- wrong, and none when all is well. Run them every minute on the primary, and
-- raise an alert when the same row comes twice in a row: a relay that is being
-- replaced leaves its slot for some seconds. On a standby both return nothing.
-- For PostgreSQL 14 to 18.
--
-- The thresholds are in the first lines of each query. The pattern of names is
-- that of `outboxd setup`; a slot of another name (--slot) needs its own.

-- 1. The slots. Any role may run this, in any database of the cluster: slots are
-- the cluster's.
WITH threshold AS (
    SELECT interval '1 minute'           AS inactive_for, -- known from PostgreSQL 17 on; before, an inactive slot counts at once
           10 * 1024 ^ 3                 AS retained,     -- bytes of WAL; also reported: more than half of max_slot_wal_keep_size
           100000000                     AS xmin_age      -- transactions; autovacuum_freeze_max_age is 200 million by default
), slot AS (
    SELECT s.slot_name, s.database, s.active, s.wal_status, s.safe_wal_size,
           -- Columns that older servers lack are NULL there.
           to_jsonb(s) ->> 'invalidation_reason'             AS invalidation,
           (to_jsonb(s) ->> 'inactive_since')::timestamptz   AS inactive_since,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) END AS retained,
           age(s.catalog_xmin)                               AS xmin_age
    FROM pg_replication_slots s
    WHERE s.slot_type = 'logical' AND s.slot_name LIKE 'outboxd\_%' AND NOT pg_is_in_recovery()
), finding AS (
    SELECT 'critical' AS severity, 'slot_lost' AS rule, slot.*
    FROM slot WHERE wal_status = 'lost' OR invalidation IS NOT NULL
    UNION ALL
    SELECT 'critical', 'slot_about_to_be_lost', slot.*
    FROM slot WHERE wal_status = 'unreserved'
    UNION ALL
    SELECT 'critical', 'slot_inactive', slot.*
    FROM slot, threshold
    WHERE NOT active AND wal_status <> 'lost' AND coalesce(inactive_since < now() - inactive_for, true)
    UNION ALL
    SELECT 'warning', 'slot_retains_wal', slot.*
    FROM slot, threshold
    WHERE wal_status <> 'lost' AND (slot.retained > threshold.retained OR slot.retained > safe_wal_size)
    UNION ALL
    SELECT 'warning', 'slot_holds_back_vacuum', slot.* -- of the catalogs
    FROM slot, threshold WHERE slot.xmin_age > threshold.xmin_age
)
SELECT severity, rule, slot_name, database,
       pg_size_pretty(retained)      AS retained_wal,
       pg_size_pretty(safe_wal_size) AS until_lost, -- NULL: max_slot_wal_keep_size is unlimited
       wal_status, inactive_since, xmin_age
FROM finding
ORDER BY severity, rule, slot_name;

-- 2. The witnesses. In the pipeline's database, for a role that may read them:
--
--   GRANT USAGE ON SCHEMA outboxd TO monitoring;
--   GRANT SELECT ON outboxd.witness TO monitoring;
--
-- This also finds a relay that is connected and gets nowhere: its broker is
-- away, or an event is held. A witness is not written while there is nothing to
-- write, so its age alone says nothing: the server must have gone on, too.
WITH threshold AS (
    SELECT interval '1 minute' AS not_written_for,
           16 * 1024 ^ 2       AS behind -- bytes of WAL
), pipeline AS (
    SELECT w.pipeline, w.slot, w.updated_at, w.holder, w.gap_floor, s.slot_name IS NOT NULL AS has_slot,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), w.acked_lsn) END AS behind
    FROM outboxd.witness w LEFT JOIN pg_replication_slots s ON s.slot_name = w.slot
    WHERE NOT pg_is_in_recovery()
), finding AS (
    SELECT 'critical' AS severity, 'slot_missing' AS rule, pipeline.*
    FROM pipeline WHERE NOT has_slot
    UNION ALL
    SELECT 'critical', 'witness_not_updated', pipeline.*
    FROM pipeline, threshold
    WHERE has_slot AND updated_at < now() - not_written_for AND pipeline.behind > threshold.behind
    UNION ALL
    SELECT 'warning', 'gap_not_replayed', pipeline.* -- and meanwhile no partition of the table is emptied
    FROM pipeline WHERE gap_floor <> ''
)
SELECT severity, rule, pipeline, slot,
       pg_size_pretty(behind) AS behind, -- WAL since the last position that was published
       updated_at, holder
FROM finding
ORDER BY severity, rule, pipeline;
