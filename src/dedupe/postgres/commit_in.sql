-- $1 job, $2 event, $3 its time as a decimal number or null, $4 the token of the claim.
--
-- Stricter than `commit.sql`: no effect stands yet, so there is no success that could be forgotten. If
-- the event is settled, or another has claimed it since, the effect must not stand.
--
-- The transaction is one that counts: it is on disk when it is committed, whatever the application
-- has set, and if its client dies without a word, its locks are gone after a minute.
WITH settings AS (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off'
            THEN set_config('synchronous_commit', 'on', true) END,
        CASE WHEN current_setting('idle_in_transaction_session_timeout') = '0'
            THEN set_config('idle_in_transaction_session_timeout', '60s', true) END
)
INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at)
SELECT $1, $2, $3::text::numeric, $4, clock_timestamp(), clock_timestamp()
FROM settings
ON CONFLICT (job, event) DO UPDATE
SET settled_at = excluded.settled_at, updated_at = excluded.updated_at
WHERE mx_job_webhook_events.token = excluded.token AND mx_job_webhook_events.settled_at IS NULL
