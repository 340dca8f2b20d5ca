-- $1 how long ago, in µs, $2 how many at most. Waits for nobody: what is locked goes the next time.
DELETE FROM mx_job_webhook_events
WHERE (job, event) IN (
    SELECT job, event
    FROM mx_job_webhook_events
    WHERE coalesce(settled_at, leased_until) <= clock_timestamp() - $1 * interval '1 microsecond'
    ORDER BY coalesce(settled_at, leased_until)
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
