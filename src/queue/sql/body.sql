-- Returns the body of a dead letter. $1 the queue, $2 the event's key.
--
-- The condition is a `CASE`, so that the server uses the index of keys and never the one of dead letters.
SELECT 'body', job FROM apalis.jobs
WHERE job_type = $1 AND idempotency_key = $2
    AND CASE status WHEN 'Killed' THEN true WHEN 'Failed' THEN attempts >= max_attempts END
