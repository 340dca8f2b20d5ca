-- Settles an event in the application's transaction. $1 is 'commit_in', as described in `claim.sql`. $2 the job,
-- $3 the event, $4 its time as a decimal number or null, $5 the token of the claim, $6 how long the transaction
-- may be idle, in ms, or null.
--
-- This is stricter than `commit.sql`, because the effect can still be undone. If the event is settled, or if
-- another delivery has claimed it, the effect must not stand.
--
-- The server confirms the transaction when it is on its disk and on its synchronous standbys, even if the
-- application has a weaker setting. If the client disappears, the server releases its locks after the time in $6.
WITH settings AS (
    SELECT clock_timestamp() AS now,
        CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
            THEN set_config('synchronous_commit', 'on', true) END,
        CASE WHEN $6::bigint IS NOT NULL
                AND current_setting('idle_in_transaction_session_timeout') = '0'
            THEN set_config('idle_in_transaction_session_timeout', $6::bigint || 'ms', true) END
    WHERE $1::text = 'commit_in'
), settled AS (
    INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at)
    SELECT $2::text, $3::text, $4::text::numeric, $5::bigint, now, now
    FROM settings
    ON CONFLICT (job, event) DO UPDATE
    SET settled_at = excluded.settled_at, updated_at = excluded.updated_at
    WHERE mx_job_webhook_events.token = excluded.token AND mx_job_webhook_events.settled_at IS NULL
    RETURNING token
)
SELECT CASE WHEN EXISTS (SELECT FROM settled) THEN 'commit_in settled' ELSE 'commit_in overtaken' END
FROM settings
