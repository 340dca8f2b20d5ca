-- $1 job, $2 event, $3 its time or null, $4 the token of the claim.
-- A claim that is not there was lost with a server that failed; this one has succeeded.
INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at)
VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp())
ON CONFLICT (job, event) DO UPDATE
SET settled_at = coalesce(mx_job_webhook_events.settled_at, excluded.settled_at)
WHERE mx_job_webhook_events.token = excluded.token
