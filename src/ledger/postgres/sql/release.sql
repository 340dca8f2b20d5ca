-- Releases claims. $1 is 'release', as described in `claim.sql`. For each release: $2 the job, $3 the event,
-- $4 null, $5 the token of the claim.
--
-- The row stays, so that tokens continue to grow. If an event is locked, for example because the application's
-- transaction is being rolled back, the answer is 'busy' and the ledger asks again. A release need not be on disk.
WITH unhurried AS (
    SELECT set_config('synchronous_commit', 'off', true)
), asked AS (
    SELECT ordinal, job, event, token
    FROM unhurried, unnest((SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[]), (SELECT $5::bigint[]))
        WITH ORDINALITY AS calls (job, event, at, token, ordinal)
    WHERE $1::text = 'release'
), known AS (
    SELECT asked.*, held.leased_until
    FROM asked LEFT JOIN LATERAL (
        SELECT leased_until
        FROM mx_job_webhook_events AS events
        WHERE events.job = asked.job AND events.event = asked.event
            AND events.token = asked.token AND settled_at IS NULL
        LIMIT 1
    ) AS held ON true
), free AS (
    SELECT known.job, known.event, known.token, known.leased_until
    FROM known CROSS JOIN LATERAL (
        SELECT
        FROM mx_job_webhook_events AS events
        WHERE events.job = known.job AND events.event = known.event
            AND events.token = known.token AND settled_at IS NULL
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS locked
    WHERE known.leased_until IS NOT NULL
), released AS (
    -- All these rows exist, and are locked by this statement.
    INSERT INTO mx_job_webhook_events AS events (job, event, token, leased_until)
    SELECT job, event, token, leased_until
    FROM free
    ON CONFLICT (job, event) DO UPDATE
    SET leased_until = least(events.leased_until, clock_timestamp())
    RETURNING job, event
)
SELECT 'release ' || ordinal || CASE
    WHEN released.job IS NOT NULL OR known.leased_until IS NULL THEN ' released'
    ELSE ' busy'
END
FROM known LEFT JOIN released ON released.job = known.job AND released.event = known.event
