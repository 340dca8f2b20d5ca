-- $1 'claim'. Of each claim: $2 job, $3 event, $4 its time as a decimal number or null, $5 lease in µs.
--
-- A server that takes this statement for another of the ledger's, behind a pooler that mixes prepared
-- statements up, is told by $1 and does nothing; each answer begins with the statement's name.
--
-- An event that is locked is one whose holder is about to commit: it is in flight. Statements that insert
-- the same new event wait for each other, in the order of the events' names, so that no two ever wait both.
-- A transaction of the application that inserted it is waited for no longer than `lock_timeout`.
--
-- The arrays are selected so that the server does not see their length when it plans: one plan serves every
-- call, and none is made anew.
--
-- A claim need not be on disk: one that a crash of the server loses is as good as released. The setting
-- is that of this transaction, which is this statement.
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
    -- By LIMIT, each event is looked up by the key, however the server estimates the table.
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
    -- By ON CONFLICT, too, each is looked up by the key.
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
