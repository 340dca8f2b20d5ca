-- Settles events. $1 is 'commit', as described in `claim.sql`. For each commit: $2 the job, $3 the event, $4 its
-- time as a decimal number or null, $5 the token of the claim.
--
-- The holder has succeeded, so the event is settled whatever has happened to the claim. Another holder may have
-- it by now, it may have been released, or a server that failed may have lost it. Only a success that was
-- recorded before takes precedence. If the callback has settled the event in its own transaction, nothing is
-- written.
--
-- If an event is locked, the answer is 'busy' and the ledger asks again, so that no commit waits for the
-- transaction of another one.
--
-- The server answers when the commit is on its disk and on its synchronous standbys, even if the application has
-- a weaker setting.
WITH settings AS (
    SELECT clock_timestamp() AS now, CASE
        WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true)
    END, set_config('lock_timeout', '100ms', true)
), asked AS (
    SELECT ordinal, job, event, at::numeric AS at, token, now
    FROM settings, unnest((SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[]), (SELECT $5::bigint[]))
        WITH ORDINALITY AS calls (job, event, at, token, ordinal)
    WHERE $1::text = 'commit'
), known AS (
    SELECT asked.*, held.settled, held.by
    FROM asked LEFT JOIN LATERAL (
        SELECT settled_at IS NOT NULL AS settled, token AS by
        FROM mx_job_webhook_events AS events
        WHERE events.job = asked.job AND events.event = asked.event
        LIMIT 1
    ) AS held ON true
), free AS (
    SELECT known.job, known.event, known.at, known.token, known.now
    FROM known CROSS JOIN LATERAL (
        SELECT
        FROM mx_job_webhook_events AS events
        WHERE events.job = known.job AND events.event = known.event AND settled_at IS NULL
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS locked
    WHERE NOT known.settled
    UNION ALL
    SELECT job, event, at, token, now
    FROM known
    WHERE settled IS NULL
), written AS (
    INSERT INTO mx_job_webhook_events AS events (job, event, updated_at, token, leased_until, settled_at)
    SELECT job, event, at, token, now, now
    FROM free
    ORDER BY job, event
    ON CONFLICT (job, event) DO UPDATE
    SET settled_at = excluded.settled_at, updated_at = excluded.updated_at, token = excluded.token
    WHERE events.settled_at IS NULL
    RETURNING job, event
)
SELECT 'commit ' || ordinal || CASE
    WHEN written.job IS NOT NULL OR settled AND known.by = known.token THEN ' settled'
    WHEN settled THEN ' overtaken'
    ELSE ' busy'
END
FROM known LEFT JOIN written ON written.job = known.job AND written.event = known.event
