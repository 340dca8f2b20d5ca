-- Returns entries. $1 is 'watch_load', $2 the jobs.
--
-- A pooler that mixes up prepared statements can make the server run another statement of the crate with these
-- parameters. That statement sees by $1 that they are not its own, and does nothing. Each row begins with the
-- statement's name, and there is always a row: if there is no entry, the rest of it is null.
SELECT 'watch_load', job, revision, (extract(epoch FROM now - stored_at) * 1000000)::bigint, entry
FROM (SELECT clock_timestamp() AS now WHERE $1::text = 'watch_load') AS clock
LEFT JOIN mx_job_webhook_watch
    ON job = ANY ($2::text[]) AND (expires_at IS NULL OR expires_at > now)
