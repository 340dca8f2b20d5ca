-- Deletes old letters. $1 is 'letter_prune', as described in `letter_keep.sql`. $2 the queue, $3 the age in µs, $4 the
-- maximum number.
--
-- Locked rows, and letters that are being replayed, are skipped and deleted the next time. The rows are deleted by
-- their physical position, so that the server reads only the part of the index that it deletes.
WITH old AS (
    SELECT ctid AS id
    FROM mx_job_webhook_dead_letters
    WHERE queue = $2::text
        AND failed_at <= (SELECT clock_timestamp() - $3::bigint * interval '1 microsecond')
        AND (replaying_until IS NULL OR replaying_until <= (SELECT clock_timestamp()))
        AND $1::text = 'letter_prune'
    ORDER BY failed_at
    LIMIT $4::bigint
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM mx_job_webhook_dead_letters
    WHERE ctid = ANY (ARRAY(SELECT id FROM old))
    RETURNING 1
)
SELECT 'letter_prune', count(*) FROM gone
