-- Returns a dead letter to the queue. $1 the queue, $2 the event's key.
--
-- The condition is a `CASE`, so that the server uses the index of keys and never the one of dead letters.
WITH replayed AS (
    UPDATE apalis.jobs
    SET status = 'Pending', max_attempts = 0, run_at = clock_timestamp(), done_at = NULL,
        last_result = coalesce(last_result, '{}') || jsonb_build_object('before', attempts)
    WHERE job_type = $1 AND idempotency_key = $2
        AND CASE status WHEN 'Killed' THEN true WHEN 'Failed' THEN attempts >= max_attempts END
    RETURNING status
)
SELECT 'replay', EXISTS (SELECT FROM replayed WHERE status = 'Pending')
