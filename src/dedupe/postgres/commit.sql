-- $1 job, $2 event, $3 its time as a decimal number or null, $4 the token of the claim.
--
-- Whatever became of the claim, its holder has succeeded: another may hold the event by now, or it was
-- released, or lost with a server that failed. Only a success that was recorded first stands. Where the
-- callback has settled the event in its own transaction, nothing is written. On disk when it is
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
    SELECT $1, $2, $3::text::numeric, $4, clock_timestamp(), clock_timestamp()
    FROM settings
    WHERE NOT EXISTS (SELECT FROM already)
    ON CONFLICT (job, event) DO UPDATE
    SET settled_at = coalesce(mx_job_webhook_events.settled_at, excluded.settled_at),
        updated_at = excluded.updated_at,
        token = excluded.token
    WHERE mx_job_webhook_events.settled_at IS NULL OR mx_job_webhook_events.token = excluded.token
    RETURNING token
)
SELECT EXISTS (SELECT FROM already) OR EXISTS (SELECT FROM now) AS settled
