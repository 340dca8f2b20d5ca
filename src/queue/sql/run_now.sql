-- Ends the pause of an event that has tries left. $1 the queue, $2 the event's key.
--
-- The condition is a `CASE`, so that the server uses the index of keys and never the one of waiting events.
WITH woken AS (
    UPDATE apalis.jobs
    SET run_at = clock_timestamp()
    WHERE job_type = $1 AND idempotency_key = $2
        AND CASE
            WHEN run_at <= clock_timestamp() THEN false
            WHEN status = 'Pending' THEN true
            WHEN status = 'Failed' THEN attempts < max_attempts
        END
    RETURNING run_at
)
SELECT 'run_now', EXISTS (SELECT FROM woken WHERE run_at <= clock_timestamp())
