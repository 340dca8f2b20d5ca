-- Claims events. $1 is 'claim'. For each claim: $2 the job, $3 the event, $4 its time as a decimal number or
-- null, $5 the lease in µs.
--
-- A pooler that mixes up prepared statements can make the server run another statement of the ledger with
-- these parameters. That statement sees by $1 that they are not its own, and does nothing. Each answer begins
-- with the statement's name.
--
-- If an event is locked, its holder is about to commit, so the event is in flight. Statements that insert the
-- same new event wait for each other. They insert in the order of the events' names, which excludes a deadlock.
-- If a transaction of the application has inserted the event, the statement waits at most `lock_timeout` for it.
--
-- The subselects hide the length of the arrays from the planner, so that one plan serves all calls.
--
-- A claim need not be on disk. If a crash of the server loses it, the effect is that of a release. The setting
-- applies to this transaction, which consists of this statement.
WITH clock AS (
    SELECT clock_timestamp() AS now, set_config('synchronous_commit', 'off', true),
        set_config('lock_timeout', '100ms', true)
), asked AS (
    SELECT ordinal, job, event, at::numeric AS at, lease, now,
        (extract(epoch FROM now) * 1000000)::bigint AS token
    FROM clock, unnest((SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[]), (SELECT $5::bigint[]))
        WITH ORDINALITY AS calls (job, event, at, lease, ordinal)
    WHERE $1::text = 'claim'
), known AS (
    SELECT asked.*, held.settled, held.leased, EXISTS (
        SELECT FROM mx_job_webhook_events AS events
        WHERE events.job = asked.job AND settled_at IS NOT NULL AND updated_at > asked.at
    ) AS stale
    -- LIMIT makes the server look up each event by its key, whatever its estimate of the table.
    FROM asked LEFT JOIN LATERAL (
        SELECT settled_at IS NOT NULL AS settled, leased_until > asked.now AS leased
        FROM mx_job_webhook_events AS events
        WHERE events.job = asked.job AND events.event = asked.event
        LIMIT 1
    ) AS held ON true
), free AS (
    SELECT known.job, known.event, known.at, known.now, known.token, known.lease
    FROM known CROSS JOIN LATERAL (
        SELECT
        FROM mx_job_webhook_events AS events
        WHERE events.job = known.job AND events.event = known.event
            AND settled_at IS NULL AND leased_until <= known.now
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS locked
    WHERE NOT known.settled AND NOT known.leased AND NOT known.stale
    UNION ALL
    SELECT job, event, at, now, token, lease
    FROM known
    WHERE settled IS NULL AND NOT stale
), granted AS (
    -- ON CONFLICT also looks up each event by its key.
    INSERT INTO mx_job_webhook_events AS events (job, event, updated_at, token, leased_until)
    SELECT job, event, at, token, now + lease * interval '1 microsecond'
    FROM free
    ORDER BY job, event
    ON CONFLICT (job, event) DO UPDATE
    SET token = greatest(events.token + 1, excluded.token), leased_until = excluded.leased_until
    WHERE events.settled_at IS NULL AND events.leased_until <= clock_timestamp()
    RETURNING job, event, token
)
SELECT 'claim ' || ordinal || CASE
    WHEN granted.token IS NOT NULL THEN ' granted ' || granted.token
    WHEN settled THEN ' settled'
    WHEN leased THEN ' in flight'
    WHEN stale THEN ' stale'
    ELSE ' in flight'
END
FROM known LEFT JOIN granted ON granted.job = known.job AND granted.event = known.event
