-- Deletes entries that have expired. $1 is 'watch_prune', as described in `watch_load.sql`. $2 the maximum number.
--
-- Locked rows are skipped, and deleted the next time.
WITH old AS (
    SELECT ctid AS id
    FROM mx_job_webhook_watch
    WHERE expires_at <= (SELECT clock_timestamp()) AND $1::text = 'watch_prune'
    ORDER BY expires_at
    LIMIT $2::bigint
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM mx_job_webhook_watch
    WHERE ctid = ANY (ARRAY(SELECT id FROM old))
    RETURNING 1
)
SELECT 'watch_prune', count(*) FROM gone
