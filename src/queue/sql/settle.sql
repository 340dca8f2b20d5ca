-- Records how a try ended. $1 the id, $2 the worker, $3 the number of the try, $4 the new status, $5 the result,
-- $6 the pause before the next try in µs.
--
-- If the row is locked, a transaction of the application ends the event, or will be rolled back.
WITH settings AS (
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
), held AS (
    SELECT id FROM apalis.jobs
    WHERE id = $1 AND lock_by = $2 AND attempts = $3 - 1 AND status = 'Running'
), unlocked AS (
    SELECT id FROM apalis.jobs
    WHERE id = $1 AND lock_by = $2 AND attempts = $3 - 1 AND status = 'Running'
    FOR UPDATE SKIP LOCKED
), settled AS (
    UPDATE apalis.jobs
    SET status = $4, attempts = $3, last_result = $5::jsonb, lock_by = NULL, lock_at = NULL,
        done_at = clock_timestamp(), run_at = clock_timestamp() + $6 * interval '1 microsecond'
    FROM unlocked, settings
    WHERE jobs.id = unlocked.id
    RETURNING jobs.id
)
SELECT 'settle', CASE
    WHEN EXISTS (SELECT FROM settled) THEN 'settled'
    WHEN EXISTS (SELECT FROM held) THEN 'locked'
    ELSE 'lost' END
