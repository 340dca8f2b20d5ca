-- Ends a replay whose letter stays. $1 is 'letter_release', as described in `letter_keep.sql`. $2 the queue, $3 the
-- name, $4 the fence, $5 the revision that was replayed, $6 the error, $7 the time in µs after which the letter has failed.
--
-- If the letter was kept again meanwhile, it has a newer error, and only the lease ends. If the lease has expired and
-- another process replays the letter, nothing changes. `replay_all` passes the time at which it began, so that it meets
-- no letter twice, even if the server's clock was set back.
WITH clock AS (
    SELECT clock_timestamp() AS now WHERE $1::text = 'letter_release'
), released AS (
    UPDATE mx_job_webhook_dead_letters AS letter
    SET replaying_until = NULL,
        tries = CASE WHEN revision = $5::bigint THEN tries + 1 ELSE tries END,
        error = CASE WHEN revision = $5::bigint THEN $6::text ELSE error END,
        failed_at = greatest(
            failed_at,
            CASE WHEN revision = $5::bigint THEN now END,
            timestamptz 'epoch' + ($7::bigint + 1) * interval '1 microsecond'
        ),
        revision = CASE
            WHEN revision = $5::bigint THEN greatest(revision + 1, (extract(epoch FROM now) * 1000000)::bigint)
            ELSE revision
        END
    FROM clock
    WHERE queue = $2::text AND name = $3::text AND fence = $4::bigint
    RETURNING 1 AS one
)
SELECT 'letter_release', count(one) FROM clock LEFT JOIN released ON true GROUP BY now
