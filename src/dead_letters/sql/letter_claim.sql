-- Claims a letter for a replay. $1 is 'letter_claim', as described in `letter_keep.sql`. $2 the queue, $3 the name, $4
-- the lease in µs.
--
-- The fence is the time in µs if that is larger than the previous one, so that it is not used again after the row was
-- deleted. A row without a fence says that another process is replaying the letter.
WITH clock AS (
    SELECT clock_timestamp() AS now WHERE $1::text = 'letter_claim'
), claimed AS (
    UPDATE mx_job_webhook_dead_letters AS letter
    SET replaying_until = now + $4::bigint * interval '1 microsecond',
        fence = greatest(letter.fence + 1, (extract(epoch FROM now) * 1000000)::bigint)
    FROM clock
    WHERE queue = $2::text AND name = $3::text AND (replaying_until IS NULL OR replaying_until <= now)
    RETURNING fence, revision, body
)
SELECT 'letter_claim',
    EXISTS (SELECT FROM mx_job_webhook_dead_letters WHERE queue = $2::text AND name = $3::text),
    fence, revision, body
FROM clock LEFT JOIN claimed ON true
