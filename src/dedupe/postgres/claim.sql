-- $1 job, $2 event, $3 its time as a decimal number or null, $4 lease in µs.
--
-- Where the event is known, nothing here waits for a transaction of the application: an event that is
-- locked is one whose holder is about to commit. What the parts see is the table as it was when the
-- statement began, so an event that somebody else claims meanwhile gets no token here, and is in
-- flight.
--
-- A claim is not waited for until it is on disk: one that a crash of the server loses is as good
-- as given back. The setting is that of this transaction, which is this statement.
WITH clock AS (
    SELECT clock_timestamp() AS now, set_config('synchronous_commit', 'off', true)
), held AS (
    SELECT settled_at, leased_until
    FROM mx_job_webhook_events
    WHERE job = $1 AND event = $2
), later AS (
    SELECT
    FROM mx_job_webhook_events
    WHERE job = $1 AND settled_at IS NOT NULL AND updated_at > $3::text::numeric
    LIMIT 1
), free AS (
    SELECT job, event
    FROM mx_job_webhook_events, clock
    WHERE job = $1 AND event = $2 AND settled_at IS NULL AND leased_until <= now
        AND NOT EXISTS (SELECT FROM later)
    FOR UPDATE OF mx_job_webhook_events SKIP LOCKED
), taken_over AS (
    UPDATE mx_job_webhook_events AS events
    SET token = greatest(events.token + 1, (extract(epoch FROM now) * 1000000)::bigint),
        leased_until = now + $4 * interval '1 microsecond'
    FROM free, clock
    WHERE events.job = free.job AND events.event = free.event
    RETURNING token
), first AS (
    INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until)
    SELECT $1, $2, $3::text::numeric, (extract(epoch FROM now) * 1000000)::bigint,
        now + $4 * interval '1 microsecond'
    FROM clock
    WHERE NOT EXISTS (SELECT FROM held) AND NOT EXISTS (SELECT FROM later)
    ON CONFLICT DO NOTHING
    RETURNING token
)
SELECT coalesce((SELECT token FROM taken_over), (SELECT token FROM first)) AS token,
    EXISTS (SELECT FROM held WHERE settled_at IS NOT NULL) AS settled,
    EXISTS (SELECT FROM held, clock WHERE leased_until > now) AS leased,
    EXISTS (SELECT FROM later) AS stale
