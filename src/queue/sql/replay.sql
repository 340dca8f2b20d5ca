-- Returns a dead letter to the queue. $1 the queue, $2 the event's key. It says whether it has, and whether there was one: a trigger
-- can keep the row as it was.
--
-- The condition is a `CASE`, so that the server uses the index of keys and never the one of dead letters.
WITH letter AS (
    SELECT id FROM apalis.jobs
    WHERE job_type = $1 AND idempotency_key = $2
        AND CASE status WHEN 'Killed' THEN true WHEN 'Failed' THEN attempts >= max_attempts END
    FOR UPDATE
), replayed AS (
    UPDATE apalis.jobs
    SET status = 'Pending', max_attempts = 0, run_at = clock_timestamp(), done_at = NULL,
        last_result = coalesce(last_result, '{}') || jsonb_build_object('before', attempts)
    FROM letter WHERE jobs.id = letter.id
    RETURNING status
)
SELECT 'replay', EXISTS (SELECT FROM replayed WHERE status = 'Pending'), EXISTS (SELECT FROM letter)
