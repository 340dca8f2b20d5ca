-- $1 'prune', $2 how long ago, in µs, $3 how many at most. As in `claim.sql`, $1 tells this statement from others.
--
-- It skips a row that is locked: that one goes the next time. The clock is read once, and the rows are
-- deleted by their place, so that the server neither reads more of the index than it deletes, nor the table.
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
