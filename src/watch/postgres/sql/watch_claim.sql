-- Claims entries that are due. $1 is 'watch_claim', as described in `watch_load.sql`. $2 the maximum number, $3 the
-- lease in µs.
--
-- Locked rows are skipped: another caller claims or changes them. The rows are changed by their physical position,
-- so that the server reads only the part of the index that it claims. A claim need not be on disk: if a crash of the
-- server loses it, the entry is due at once.
WITH clock AS (
    SELECT clock_timestamp() AS now, set_config('synchronous_commit', 'off', true)
    WHERE $1::text = 'watch_claim'
), due AS (
    SELECT ctid AS id, job, due_at
    FROM mx_job_webhook_watch
    WHERE due_at <= (SELECT now FROM clock)
        AND (expires_at IS NULL OR expires_at > (SELECT now FROM clock))
    ORDER BY due_at
    LIMIT $2::bigint
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE mx_job_webhook_watch AS watch
    SET due_at = now + $3::bigint * interval '1 microsecond',
        revision = greatest(watch.revision + 1, (extract(epoch FROM now) * 1000000)::bigint)
    FROM clock
    WHERE watch.ctid = ANY (ARRAY(SELECT id FROM due))
    RETURNING job, guid, revision, (extract(epoch FROM now - stored_at) * 1000000)::bigint AS age, entry
)
SELECT 'watch_claim', claimed.job, revision, age, entry, guid
FROM clock LEFT JOIN (claimed JOIN due ON due.job = claimed.job) ON true
ORDER BY due.due_at
