-- Lists dead letters, the newest first. $1 the queue, $2 a status as in the key or null, $3 a part of the error or
-- null, $4 and $5 the first and the last time in µs, $6 and $7 the time in µs and the key before which to list, or
-- null, $8 how many.
SELECT 'dead_letters', idempotency_key, attempts, last_result ->> 'Err',
    (extract(epoch FROM done_at) * 1000000)::bigint,
    (extract(epoch FROM coalesce(lock_at, done_at)) * 1000000)::bigint
FROM apalis.jobs
WHERE job_type = $1 AND (status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts))
    AND ($2 IS NULL OR reverse(split_part(reverse(idempotency_key), ' ', 2)) = $2)
    AND ($3 IS NULL OR strpos(last_result ->> 'Err', $3) > 0)
    AND done_at BETWEEN $4 AND $5
    AND ($6 IS NULL OR (done_at, idempotency_key) < ($6, $7))
ORDER BY done_at DESC, idempotency_key DESC
LIMIT $8
