-- Stores events. $1 the queue, $2 the ids of new rows, $3 the events' keys, $4 the bodies.
--
-- The server confirms the rows when they are on its disk and on its synchronous standbys, even if the application has
-- a weaker setting. The rows are due a moment after this transaction: apalis' trigger notifies listeners of rows that
-- are due at once, and the server commits transactions with a notification one after the other.
--
-- An event that exists is skipped before the insertion, which would wait for a transaction that has locked its row. The
-- server may have lost its standby, or crashed, before it confirmed that row: then this transaction writes a message, so
-- that the server confirms both.
WITH settings AS (
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
), stored AS (
    INSERT INTO apalis.jobs
        (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key)
    SELECT new.id, $1, body, 'Pending', 0, 0, now() + interval '1 microsecond', 0, key
    FROM settings, unnest($2, $3, $4) AS new (id, key, body)
    WHERE NOT EXISTS (SELECT FROM apalis.jobs WHERE job_type = $1 AND idempotency_key = key)
    ON CONFLICT (job_type, idempotency_key) DO NOTHING
    RETURNING id
)
SELECT 'enqueue', ARRAY(SELECT id FROM stored), CASE WHEN (SELECT count(*) FROM stored) < cardinality($2)
    THEN pg_logical_emit_message(true, 'mx-job-webhook', '') END::text
FROM settings
