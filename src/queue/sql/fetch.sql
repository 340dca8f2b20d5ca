-- Takes the next events. $1 the queue, $2 the worker, $3 how many, $4 the tries of an event that has none yet, $5 the size
-- of bodies in bytes after which no further event is taken, $6 the ids of events to leave out, $7 the id of the only event
-- to take, if it is one, $8 whether it is.
--
-- It does not wait for the disk. If a crash of the server undoes it, the event runs once more, with a larger token, and one
-- of the two runs can commit its end.
--
-- The token is the time in µs, so that it also grows when an event was deleted and delivered again.
--
-- `now()` is a condition of the index, and `clock_timestamp()` would not be: an idle worker would read every event that
-- pauses.
--
-- Without statistics of the table, which come a minute after a burst, the server takes the waiting events for few, and
-- would sort all of them for each call. The setting makes it read the first ones by the index.
-- With an id, it would make the server read all of them.
SET LOCAL enable_sort = $8;
-- What was taken is sorted nevertheless, and the cost of that would have the server compile the statement first.
SET LOCAL jit = off;
SET LOCAL synchronous_commit = off;
WITH next AS (
    SELECT id, idempotency_key, priority, run_at, octet_length(job) AS size FROM apalis.jobs
    WHERE (status = 'Pending' OR (status = 'Failed' AND attempts < max_attempts))
        AND job_type = $1 AND run_at <= now() AND id <> ALL ($6) AND ($7 IS NULL OR id = $7)
    ORDER BY priority DESC, run_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
), sized AS (
    SELECT id, idempotency_key, size, row_number() OVER places AS place, sum(size) OVER places - size AS before
    FROM next WINDOW places AS (ORDER BY priority DESC, run_at ROWS UNBOUNDED PRECEDING)
), taken AS (
    UPDATE apalis.jobs
    SET status = 'Running', lock_by = $2, lock_at = greatest(clock_timestamp(), lock_at + interval '1 microsecond'),
        max_attempts = CASE max_attempts WHEN 0 THEN attempts + $4 ELSE max_attempts END
    FROM sized WHERE jobs.id = sized.id AND before < $5
    RETURNING jobs.id, status, attempts, max_attempts, job, lock_at, lock_by, last_result
)
-- A trigger can keep rows as they were.
SELECT 'fetch', id, idempotency_key, attempts, max_attempts, job,
    (extract(epoch FROM lock_at) * 1000000)::bigint, (last_result ->> 'before')::int,
    coalesce(status = 'Running' AND lock_by = $2, false), size
FROM sized LEFT JOIN taken USING (id)
WHERE before < $5 ORDER BY place
