-- Locks the row of a worker, as a change of an event does that the worker takes: it is a foreign key. $1 the worker.
-- A lock is written to the log of changes, for which this does not wait.
SET LOCAL synchronous_commit = off;
SELECT 'worker' FROM apalis.workers WHERE id = $1 FOR KEY SHARE
