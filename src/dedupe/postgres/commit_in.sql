-- As `commit.sql`, but once: whoever finds the event settled must not have an effect again.
INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at)
VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp())
ON CONFLICT (job, event) DO UPDATE
SET settled_at = excluded.settled_at
WHERE mx_job_webhook_events.token = excluded.token AND mx_job_webhook_events.settled_at IS NULL
