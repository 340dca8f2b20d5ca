-- $1 job, $2 event, $3 the token of the claim. The row stays, so that tokens go on growing.
UPDATE mx_job_webhook_events
SET leased_until = clock_timestamp()
WHERE job = $1 AND event = $2 AND token = $3 AND settled_at IS NULL
