-- Stores an event. $1 the queue, $2 the id of a new row, $3 the event's key, $4 the body.
--
-- The server confirms the row when it is on its disk and on its synchronous standbys, even if the application has
-- a weaker setting. The row is due a moment after this transaction: apalis' trigger notifies listeners of rows that
-- are due at once, and the server commits transactions with a notification one after the other.
WITH settings AS (
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
), stored AS (
    INSERT INTO apalis.jobs
        (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key)
    SELECT $2, $1, $4, 'Pending', 0, 0, now() + interval '1 microsecond', 0, $3
    FROM settings
    ON CONFLICT (job_type, idempotency_key) DO NOTHING
    RETURNING id
)
SELECT 'enqueue', EXISTS (SELECT FROM stored) FROM settings
