-- $1 job, $2 event, $3 its time or null, $4 the token of the claim.
--
-- Where the callback has settled the event in its own transaction, nothing is written. A claim that
-- is not there was lost with a server that failed; this one has succeeded. On disk when it is
-- committed, whatever the application has set.
WITH settings AS (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off'
        THEN set_config('synchronous_commit', 'on', true) END
), already AS (
    SELECT
    FROM mx_job_webhook_events
    WHERE job = $1 AND event = $2 AND token = $4 AND settled_at IS NOT NULL
), now AS (
    INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at)
    SELECT $1, $2, $3, $4, clock_timestamp(), clock_timestamp()
    FROM settings
    WHERE NOT EXISTS (SELECT FROM already)
    ON CONFLICT (job, event) DO UPDATE
    SET settled_at = coalesce(mx_job_webhook_events.settled_at, excluded.settled_at)
    WHERE mx_job_webhook_events.token = excluded.token
    RETURNING token
)
SELECT EXISTS (SELECT FROM already) OR EXISTS (SELECT FROM now) AS settled
