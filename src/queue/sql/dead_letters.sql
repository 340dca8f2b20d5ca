-- Lists dead letters, the newest first. $1 the queue. $2 to $5 are the filter, each null for all letters: the status as
-- in the key, a part of the error, and the times from which on and before which they failed. $6 and $7 are the time and
-- the key of the last letter of the previous page, or null, $8 how many.
--
-- A row whose status was set by hand can lack `done_at`. It then failed when it was due.
--
-- The setting makes the server read the first ones by the index, also without statistics of the table.
SET LOCAL enable_sort = off;
SELECT 'dead_letters', idempotency_key, attempts, last_result ->> 'Err',
    (extract(epoch FROM coalesce(done_at, run_at)) * 1000000)::bigint, id
FROM apalis.jobs
WHERE job_type = $1 AND idempotency_key IS NOT NULL
    AND (status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts))
    AND ($2 IS NULL OR reverse(split_part(reverse(idempotency_key), ' ', 2)) = $2)
    AND ($3 IS NULL OR strpos(last_result ->> 'Err', $3) > 0)
    AND ($4 IS NULL OR coalesce(done_at, run_at) >= $4::timestamptz)
    AND ($5 IS NULL OR coalesce(done_at, run_at) < $5::timestamptz)
    AND ($6 IS NULL OR (coalesce(done_at, run_at), idempotency_key COLLATE "C") < ($6::timestamptz, $7))
ORDER BY coalesce(done_at, run_at) DESC, idempotency_key COLLATE "C" DESC
LIMIT $8
