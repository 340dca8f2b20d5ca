-- Counts the events of a queue. $1 the queue.
--
-- The settings make the server count in indexes, and look for the events of each worker, also without statistics of the
-- table. A plan with a step that is off has a huge cost, for which the server would compile the statement first.
SET LOCAL enable_seqscan = off;
SET LOCAL enable_sort = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL jit = off;
SELECT 'counts',
    (SELECT count(*) FROM apalis.jobs
     WHERE job_type = $1 AND (status = 'Pending' OR (status = 'Failed' AND attempts < max_attempts))),
    (SELECT count(*) FROM apalis.jobs JOIN apalis.workers ON lock_by = workers.id
     WHERE worker_type = $1 AND job_type = $1 AND status IN ('Queued', 'Running')),
    (SELECT count(*) FROM apalis.jobs
     WHERE job_type = $1 AND (status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts))),
    (SELECT (extract(epoch FROM clock_timestamp() - run_at) * 1000000)::bigint FROM apalis.jobs
     WHERE job_type = $1 AND (status = 'Pending' OR (status = 'Failed' AND attempts < max_attempts))
        AND run_at <= now()
     ORDER BY priority DESC, run_at LIMIT 1)
