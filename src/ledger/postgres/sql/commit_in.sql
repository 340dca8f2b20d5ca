-- $1 'commit_in', $2 job, $3 event, $4 its time as a decimal number or null, $5 the token of the claim, $6 how
-- long the transaction may be idle, in ms, or null. As in `claim.sql`, $1 tells this statement from others.
--
-- Stricter than `commit.sql`: no effect stands yet, so there is no success that could be forgotten. If
-- the event is settled, or another has claimed it since, the effect must not stand.
--
-- The transaction is one that counts: the server confirms it when its disk, and its synchronous
-- standbys, have it, even if the application has asked for less. If its client dies without a word, its
-- locks are released after a while.
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
