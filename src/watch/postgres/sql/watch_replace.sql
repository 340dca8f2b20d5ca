-- Replaces an entry. $1 is 'watch_replace', as described in `watch_load.sql`. $2 the job, $3 its guid if the job is
-- a digest, $4 the revision that the caller knows, $5 the entry, $6 whether it is due as before, $7 in how many µs it
-- is due, $8 for how many µs to keep it, $9 the notification.
--
-- A conflict that the snapshot shows is answered without a lock, a write and a flush: each event of a job that is
-- expected begins with one. If another transaction changes the row at the same time, the answer is 'busy' and the
-- store asks again, because this snapshot does not have the new entry. If a row expires and is pruned while this
-- statement runs, it is inserted again, as if this statement had been a little earlier.
--
-- A revision is the time in µs if that is larger than the previous one, so that it is not used again after the row
-- was pruned.
--
-- The server answers when the commit is on its disk and on its synchronous standbys, even if the application has
-- a weaker setting.
WITH settings AS (
    SELECT clock_timestamp() AS now, CASE
        WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true)
    END
    WHERE $1::text = 'watch_replace'
), known AS (
    SELECT revision, entry, stored_at
    FROM settings, mx_job_webhook_watch
    WHERE job = $2::text AND (expires_at IS NULL OR expires_at > now)
), written AS (
    INSERT INTO mx_job_webhook_watch AS watch (job, guid, revision, entry, stored_at, due_at, expires_at)
    SELECT $2::text, $3::bytea, (extract(epoch FROM now) * 1000000)::bigint, $5::text, now,
        now + $7::bigint * interval '1 microsecond', now + $8::bigint * interval '1 microsecond'
    FROM settings LEFT JOIN known ON true
    WHERE known.revision IS NOT DISTINCT FROM $4::bigint
    ON CONFLICT (job) DO UPDATE
    SET revision = greatest(watch.revision + 1, excluded.revision), guid = excluded.guid, entry = excluded.entry,
        stored_at = excluded.stored_at, expires_at = excluded.expires_at,
        due_at = CASE WHEN $6::boolean AND $4::bigint IS NOT NULL THEN watch.due_at ELSE excluded.due_at END
    WHERE CASE WHEN $4::bigint IS NULL
        THEN watch.expires_at <= clock_timestamp()
        ELSE watch.revision = $4::bigint
    END
    RETURNING 1
)
SELECT 'watch_replace', CASE
        WHEN EXISTS (SELECT FROM written) THEN 'done'
        WHEN known.revision IS NOT DISTINCT FROM $4::bigint THEN 'busy'
        ELSE 'conflict'
    END, known.revision, (extract(epoch FROM now - known.stored_at) * 1000000)::bigint, known.entry,
    (SELECT count(pg_notify('mx_job_webhook_watch', $9::text)::text) FROM written WHERE $9::text IS NOT NULL)
FROM settings LEFT JOIN known ON NOT EXISTS (SELECT FROM written)
