-- Returns those of these events that a worker has handled. $1 the queue, $2 the ids of the calls, $3 the events' keys.
--
-- It has no join: without statistics of the table, the server would read all handled events for it.
SELECT 'handled', call.id FROM unnest($2, $3) AS call (id, key)
WHERE (SELECT status FROM apalis.jobs WHERE job_type = $1 AND idempotency_key = key) = 'Done'
