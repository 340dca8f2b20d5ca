-- Returns dead letters to the queue, in the order in which they failed. $1 to $5 as in `dead_letters.sql`, $6 how many
-- at most.
--
-- The settings make the server read the rows by indexes, also without statistics of the table. A plan with a step that
-- is off has a huge cost, for which the server would compile the statement first.
SET LOCAL enable_sort = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL jit = off;
WITH chosen AS (
    SELECT id, coalesce(done_at, run_at) AS failed_at, idempotency_key COLLATE "C" AS key FROM apalis.jobs
    WHERE job_type = $1 AND idempotency_key IS NOT NULL
        AND (status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts))
        AND ($2 IS NULL OR reverse(split_part(reverse(idempotency_key), ' ', 2)) = $2)
        AND ($3 IS NULL OR strpos(last_result ->> 'Err', $3) > 0)
        AND ($4 IS NULL OR coalesce(done_at, run_at) >= $4::timestamptz)
        AND ($5 IS NULL OR coalesce(done_at, run_at) < $5::timestamptz)
    ORDER BY coalesce(done_at, run_at), idempotency_key COLLATE "C"
    LIMIT $6
    FOR UPDATE SKIP LOCKED
), ordered AS (
    SELECT id, row_number() OVER (ORDER BY failed_at, key) AS position FROM chosen
), replayed AS (
    UPDATE apalis.jobs
    SET status = 'Pending', max_attempts = 0, done_at = NULL,
        last_result = coalesce(last_result, '{}') || jsonb_build_object('before', attempts),
        run_at = now() + position * interval '1 microsecond'
    FROM ordered WHERE jobs.id = ordered.id
    RETURNING status
)
-- A trigger can keep rows as they were.
SELECT 'replay_all', (SELECT count(*) FROM replayed WHERE status = 'Pending'), (SELECT count(*) FROM chosen)
