-- Deletes old events. $1 is 'prune', as described in `claim.sql`. $2 the age in µs, $3 the maximum number of rows.
--
-- Locked rows are skipped, and deleted the next time. The clock is read once, and the rows are deleted by their
-- physical position, so that the server reads only the part of the index that it deletes, and does not scan the
-- table.
WITH old AS (
    SELECT ctid AS id
    FROM mx_job_webhook_events
    WHERE coalesce(settled_at, leased_until)
            <= (SELECT clock_timestamp() - $2::bigint * interval '1 microsecond')
        AND $1::text = 'prune'
    ORDER BY coalesce(settled_at, leased_until)
    LIMIT $3::bigint
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM mx_job_webhook_events
    WHERE ctid = ANY (ARRAY(SELECT id FROM old))
    RETURNING 1
)
SELECT 'prune ' || count(*) FROM gone
