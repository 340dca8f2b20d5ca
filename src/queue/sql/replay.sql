-- Returns a dead letter to the queue. $1 the queue, $2 the event's key.
WITH replayed AS (
    UPDATE apalis.jobs
    SET status = 'Pending', max_attempts = 0, run_at = clock_timestamp(), done_at = NULL
    WHERE job_type = $1 AND idempotency_key = $2
        AND (status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts))
    RETURNING id
)
SELECT 'replay', EXISTS (SELECT FROM replayed)
