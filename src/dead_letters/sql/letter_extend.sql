-- Extends the lease of a replay. $1 is 'letter_extend', as described in `letter_keep.sql`. $2 the name, $3 the fence,
-- $4 the lease in µs.
WITH extended AS (
    UPDATE mx_job_webhook_dead_letters
    SET replaying_until = clock_timestamp() + $4::bigint * interval '1 microsecond'
    WHERE name = $2::text AND fence = $3::bigint AND $1::text = 'letter_extend'
    RETURNING 1
)
SELECT 'letter_extend', count(*) FROM extended
