-- Returns the events that would be taken next, and takes none. $1 the queue, $2 how many, $3 the ids of events to leave out.
--
-- The conditions and the settings are those of `fetch.sql`. Locked events are returned too: those that come after them are not next.
SET LOCAL enable_sort = off;
SET LOCAL jit = off;
SELECT 'next', id, idempotency_key FROM apalis.jobs
WHERE (status = 'Pending' OR (status = 'Failed' AND attempts < max_attempts))
    AND job_type = $1 AND run_at <= now() AND id <> ALL ($3)
ORDER BY priority DESC, run_at
LIMIT $2
