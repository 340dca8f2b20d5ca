-- Returns the body of a dead letter. $1 the queue, $2 the event's key.
SELECT 'body', job FROM apalis.jobs
WHERE job_type = $1 AND idempotency_key = $2
    AND (status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts))
