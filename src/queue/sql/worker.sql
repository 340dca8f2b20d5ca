-- Locks the row of a worker, as a change of an event does that the worker takes: it is a foreign key. $1 the worker.
SELECT 'worker' FROM apalis.workers WHERE id = $1 FOR KEY SHARE
