-- $1 'claim'. Of each claim: $2 job, $3 event, $4 its time as a decimal number or null, $5 lease in µs.
--
-- A server that takes this statement for another of the ledger's, behind a pooler that mixes prepared
-- statements up, is told by $1 and does nothing; each answer begins with the statement's name.
--
-- Nothing here waits for a transaction of the application: an event that is locked is one whose holder
-- is about to commit. The parts see the table as it was when the statement began, so an event that
-- another claims meanwhile gets no token here, and is in flight. New events are inserted in the order
-- of their names, so that two statements never wait for each other.
--
-- The arrays are selected so that the server does not see their length when it plans: one plan serves every
-- call, and none is made anew.
--
-- A claim need not be on disk: one that a crash of the server loses is as good as released. The setting
-- is that of this transaction, which is this statement.
WITH clock AS (
    SELECT clock_timestamp() AS now, set_config('synchronous_commit', 'off', true)
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
    SELECT known.job, known.event, known.now, known.token, known.lease, locked.id
    FROM known CROSS JOIN LATERAL (
        SELECT ctid AS id
        FROM mx_job_webhook_events AS events
        WHERE events.job = known.job AND events.event = known.event
            AND settled_at IS NULL AND leased_until <= known.now
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS locked
    WHERE NOT known.settled AND NOT known.leased AND NOT known.stale
), taken_over AS (
    UPDATE mx_job_webhook_events AS events
    SET token = greatest(events.token + 1, free.token),
        leased_until = free.now + free.lease * interval '1 microsecond'
    FROM free
    WHERE events.ctid = ANY (ARRAY(SELECT id FROM free))
        AND events.job = free.job AND events.event = free.event
    RETURNING events.job, events.event, events.token
), first AS (
    INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until)
    SELECT job, event, at, token, now + lease * interval '1 microsecond'
    FROM known
    WHERE settled IS NULL AND NOT stale
    ORDER BY job, event
    ON CONFLICT DO NOTHING
    RETURNING job, event, token
)
SELECT 'claim ' || ordinal || CASE
    WHEN granted.token IS NOT NULL THEN ' granted ' || granted.token
    WHEN settled THEN ' settled'
    WHEN leased THEN ' in flight'
    WHEN stale THEN ' stale'
    ELSE ' in flight'
END
FROM known LEFT JOIN (SELECT * FROM taken_over UNION ALL SELECT * FROM first) AS granted
    ON granted.job = known.job AND granted.event = known.event
