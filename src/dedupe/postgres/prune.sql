-- $1 how long ago, in µs.
DELETE FROM mx_job_webhook_events
WHERE coalesce(settled_at, leased_until) <= clock_timestamp() - $1 * interval '1 microsecond'
