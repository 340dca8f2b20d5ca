-- Counts the entries that have a time at which they are due, and those that are due. $1 is 'watch_count', as
-- described in `watch_load.sql`.
SELECT 'watch_count', count(due_at), count(CASE WHEN due_at <= now THEN 1 END)
FROM (SELECT clock_timestamp() AS now WHERE $1::text = 'watch_count') AS clock
LEFT JOIN mx_job_webhook_watch ON due_at IS NOT NULL AND (expires_at IS NULL OR expires_at > now)
GROUP BY now
