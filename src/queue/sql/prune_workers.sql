-- Deletes workers that were last seen more than a day ago and hold no event. Each start adds one. $1 the queue.
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
WITH deleted AS (
    DELETE FROM apalis.workers
    WHERE worker_type = $1 AND last_seen < now() - interval '1 day'
        AND NOT EXISTS (SELECT FROM apalis.jobs WHERE lock_by = workers.id)
    RETURNING id
)
SELECT 'prune_workers', count(*) FROM deleted
