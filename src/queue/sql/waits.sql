-- Says whether an event waits for a worker, although another session may have locked its row. $1 its id.
SELECT 'waits', run_at <= now() AND (status = 'Pending' OR (status = 'Failed' AND attempts < max_attempts))
FROM apalis.jobs WHERE id = $1
