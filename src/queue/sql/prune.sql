-- Deletes events that were handled. $1 the queue, $2 for how long they are kept in µs, $3 how many at most.
SET LOCAL enable_sort = off;
WITH old AS (
    SELECT id FROM apalis.jobs
    WHERE job_type = $1 AND status = 'Done' AND done_at < now() - $2 * interval '1 microsecond'
    ORDER BY done_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM apalis.jobs WHERE id = ANY (ARRAY(SELECT id FROM old)) RETURNING id
)
SELECT 'prune', count(*) FROM deleted
