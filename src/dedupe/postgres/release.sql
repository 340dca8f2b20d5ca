-- $1 job, $2 event, $3 the token of the claim. The row stays, so that tokens go on growing.
-- Not waited for until it is on disk, as a claim is not.
WITH unhurried AS (
    SELECT set_config('synchronous_commit', 'off', true)
)
UPDATE mx_job_webhook_events
SET leased_until = clock_timestamp()
FROM unhurried
WHERE job = $1 AND event = $2 AND token = $3 AND settled_at IS NULL
