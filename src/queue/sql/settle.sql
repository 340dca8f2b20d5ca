-- Records how tries ended. $1 the worker, $2 the ids, $3 the numbers of the tries, $4 the new statuses, $5 the
-- results, $6 the pauses before the next tries in µs, $7 the tokens of the tries, $8 how many tries
-- count.
--
-- If a try does not count, its number can be that of the next one, but not its token. An event that has been tried before keeps
-- the error of then.
--
-- If a row is locked, a transaction of the application ends the event, or will be rolled back. If the answer was lost and the
-- statement is repeated, the end is recorded already.
WITH settings AS (
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END
), ended AS (
    SELECT * FROM unnest($2, $3, $4, $5, $6, $7, $8) AS ended (id, number, status, result, pause, token, tries)
), unlocked AS (
    SELECT ended.* FROM ended JOIN apalis.jobs ON jobs.id = ended.id
    WHERE lock_by = $1 AND attempts = number - 1 AND jobs.status = 'Running'
        AND (extract(epoch FROM lock_at) * 1000000)::bigint = token
    FOR UPDATE OF jobs SKIP LOCKED
), settled AS (
    UPDATE apalis.jobs
    SET status = ended.status, attempts = tries, lock_by = NULL,
        last_result = CASE WHEN tries BETWEEN 1 AND number - 1 THEN coalesce(last_result, '{}') ELSE result::jsonb END || CASE WHEN last_result -> 'before' IS NOT NULL
            THEN jsonb_build_object('before', last_result -> 'before') ELSE '{}' END,
        done_at = clock_timestamp(), run_at = clock_timestamp() + pause * interval '1 microsecond'
    FROM unlocked AS ended, settings
    WHERE jobs.id = ended.id
    RETURNING jobs.id, ended.token, lock_by IS NULL AND jobs.status <> 'Running' AS is_settled
)
-- A trigger can keep rows as they were, with their worker.
SELECT 'settle', id, token, CASE WHEN (id, token) IN (SELECT id, token FROM settled WHERE is_settled) THEN 'settled' ELSE coalesce((
    SELECT CASE
        WHEN lock_by = $1 AND attempts = number - 1 AND jobs.status = 'Running'
            AND (extract(epoch FROM lock_at) * 1000000)::bigint = token THEN 'locked'
        WHEN attempts = tries AND jobs.status = ended.status THEN 'settled'
    END
    FROM apalis.jobs WHERE jobs.id = ended.id
), 'lost') END
FROM ended
