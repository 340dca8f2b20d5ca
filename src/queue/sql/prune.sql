-- Deletes events that were handled. $1 the queue, $2 for how long they are kept in µs, $3 how many at most, $4 the time from which
-- on they were handled, or null, $5 the ids of events to leave out.
--
-- A trigger can keep rows. It says how many it has deleted, how many were to be deleted, when the last of these was handled, and the
-- ids of those that were kept.
SET LOCAL enable_sort = off;
WITH old AS (
    SELECT id, done_at FROM apalis.jobs
    WHERE job_type = $1 AND status = 'Done' AND done_at < now() - $2 * interval '1 microsecond'
        AND ($4 IS NULL OR done_at >= $4::timestamptz) AND id <> ALL ($5)
    ORDER BY done_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM apalis.jobs WHERE id = ANY (ARRAY(SELECT id FROM old)) RETURNING id
)
SELECT 'prune', (SELECT count(*) FROM deleted), count(*), (extract(epoch FROM max(done_at)) * 1000000)::bigint,
    (jsonb_agg(id) FILTER (WHERE id NOT IN (SELECT id FROM deleted)))::text
FROM old
