-- Keeps a letter. $1 is 'letter_keep', $2 its queue, $3 its name, $4 the kind, $5 the guid, $6 the status, $7 the
-- error, $8 the body.
--
-- A pooler that mixes up prepared statements can make the server run another statement of the crate with these
-- parameters. That statement sees by $1 that they are not its own, and does nothing. Each row begins with the
-- statement's name, and there is always a row.
--
-- The server answers when the commit is on its disk and on its synchronous standbys, even if the application has
-- a weaker setting. A replay of the letter that is running keeps its lease, and sees by the revision that the letter
-- was kept again. The time never decreases, so that a letter cannot move to a later page.
WITH settings AS (
    SELECT clock_timestamp() AS now, CASE
        WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true)
    END
    WHERE $1::text = 'letter_keep'
), kept AS (
    INSERT INTO mx_job_webhook_dead_letters AS letter
        (queue, name, kind, guid, status, tries, error, body, first_failed_at, failed_at, revision, fence)
    SELECT $2::text, $3::text, $4::text, $5::bytea, $6::text, 1, $7::text, $8::bytea, now, now,
        (extract(epoch FROM now) * 1000000)::bigint, 0
    FROM settings
    ON CONFLICT (queue, name) DO UPDATE
    SET tries = letter.tries + 1, error = excluded.error, body = excluded.body,
        failed_at = greatest(letter.failed_at, excluded.failed_at),
        revision = greatest(letter.revision + 1, excluded.revision)
    RETURNING 1
)
SELECT 'letter_keep', count(*) FROM settings, kept GROUP BY now
