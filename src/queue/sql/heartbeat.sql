-- Says that a worker lives. $1 the queue, $2 the worker, $3 the time in µs after which a silent worker counts as dead, $4 the
-- server's time of the last heartbeat whose answer the worker has received.
--
-- Its contact continues if that was less than half of $3 ago, by the server's clock. A longer silence can be an outage, also
-- one during which this statement waited.
--
-- It does not wait for the disk: a worker lives although a synchronous standby is absent.
SET LOCAL synchronous_commit = off;
INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
VALUES ($2, $1, 'mx-job-webhook', '', clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen
RETURNING 'heartbeat', last_seen - $4 < $3 / 2 * interval '1 microsecond', (extract(epoch FROM last_seen) * 1000000)::bigint
