-- Returns the events that have lost their worker to the queue. $1 the queue, $2 this worker, $3 the ids that it is running,
-- $4 the time in µs after which a silent worker counts as dead, $5 whether to look for dead ones, $6 the server's time of the
-- last heartbeat whose answer this worker has received.
--
-- It looks for dead ones only if that was less than half of $4 ago, by the server's clock. A longer silence can be an
-- outage, also one during which this statement waited, and then others need time to report. The table could not tell: the
-- worker may have given up several heartbeats, which run one after the other when the server continues.
--
-- It also returns events that this worker does not know: the answer to its fetch was lost, or a failover has undone the
-- transaction that ended the event. A try whose worker died counts, but its callback may not have started: only the third
-- one, or the third after a replay, can make the event a dead letter.
--
-- It returns $7 at most, so that it ends in time. It leaves out the events in $8, and returns only the one in $9 if that is
-- not NULL. With $10, it returns none, and says which it would have returned.
--
-- The settings make the server look for the events of each dead worker by the index.
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
WITH contact AS (
    SELECT now - $4 * interval '1 microsecond' AS dead_before, least(now, $6) - $4 * interval '1 microsecond' AS known_before,
        now - $6 < $4 / 2 * interval '1 microsecond' AS continues
    FROM clock_timestamp() AS now
), orphaned AS (
    SELECT jobs.id, idempotency_key
    FROM contact
    JOIN apalis.workers ON $5 AND continues AND worker_type = $1 AND workers.id <> $2 AND workers.last_seen < dead_before
    JOIN apalis.jobs ON lock_by = workers.id AND status IN ('Queued', 'Running')
        AND jobs.id <> ALL ($8) AND ($9 IS NULL OR jobs.id = $9)
    LIMIT $7
    FOR UPDATE OF jobs SKIP LOCKED
), unknown AS (
    SELECT jobs.id, idempotency_key
    FROM contact
    JOIN apalis.jobs ON lock_by = $2 AND status IN ('Queued', 'Running') AND lock_at < known_before
        AND jobs.id <> ALL ($3) AND jobs.id <> ALL ($8) AND ($9 IS NULL OR jobs.id = $9)
    LIMIT $7
    FOR UPDATE OF jobs SKIP LOCKED
), lost AS (
    SELECT id, idempotency_key FROM orphaned UNION SELECT id, idempotency_key FROM unknown
), returned AS (
    UPDATE apalis.jobs
    SET status = CASE WHEN max_attempts > 0 AND attempts + 1 >= greatest(max_attempts, coalesce((last_result ->> 'before')::int, 0) + 3)
        THEN 'Failed' ELSE 'Pending' END,
        attempts = attempts + 1, lock_by = NULL, done_at = clock_timestamp(),
        last_result = coalesce(last_result, '{}') || jsonb_build_object('Err',
            'the worker stopped before the callback ended, or the transaction of `commit_in` was not committed'
            || coalesce('; the error before: ' || substring(last_result ->> 'Err' FROM '^(?!the worker stopped).*'),
                substring(last_result ->> 'Err' FROM '; the error before: .*'), ''))
    FROM lost
    WHERE jobs.id = lost.id AND NOT $10
    RETURNING jobs.id, status, jobs.idempotency_key, lock_by IS NULL AND status NOT IN ('Queued', 'Running') AS is_back
)
-- A trigger can keep rows as they were, with their workers. It says which.
SELECT 'take_over', (SELECT count(*) FROM returned WHERE is_back), continues,
    (SELECT jsonb_agg(idempotency_key)::text FROM returned WHERE status = 'Failed' AND is_back),
    (SELECT jsonb_agg(jsonb_build_array(id, idempotency_key))::text FROM lost
        WHERE id NOT IN (SELECT id FROM returned WHERE is_back))
FROM contact
