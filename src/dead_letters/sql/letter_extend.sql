-- Extends the lease of a replay. $1 is 'letter_extend', as described in `letter_keep.sql`. $2 the queue, $3 the name,
-- $4 the fence, $5 the lease in µs.
WITH extended AS (
    UPDATE mx_job_webhook_dead_letters
    SET replaying_until = clock_timestamp() + $5::bigint * interval '1 microsecond'
    WHERE queue = $2::text AND name = $3::text AND fence = $4::bigint
        AND $1::text = 'letter_extend'
    RETURNING 1
)
SELECT 'letter_extend', count(*) FROM extended
