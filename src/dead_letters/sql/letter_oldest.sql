-- Returns the names of letters, the oldest failure first. $1 is 'letter_oldest', as described in `letter_keep.sql`. $2
-- the queue. $3 to $7 are the filter, as in `letter_list.sql`. $8 and $9 are the time in µs and the name of the letter
-- before, $10 the maximum number. $11 is the time in µs after which letters are left out; if it is null, it is now, and
-- is returned.
SELECT 'letter_oldest', until, name, (extract(epoch FROM failed_at) * 1000000)::bigint
FROM (
    SELECT coalesce($11::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS until
    WHERE $1::text = 'letter_oldest'
) AS own LEFT JOIN LATERAL (
    SELECT name, failed_at
    FROM mx_job_webhook_dead_letters
    WHERE queue = $2::text
        AND ($3::text IS NULL OR kind = $3::text)
        AND ($4::text IS NULL OR status = $4::text)
        AND ($5::text IS NULL OR strpos(error, $5::text) > 0)
        AND ($6::bigint IS NULL OR failed_at >= timestamptz 'epoch' + $6::bigint * interval '1 microsecond')
        AND ($7::bigint IS NULL OR failed_at < timestamptz 'epoch' + $7::bigint * interval '1 microsecond')
        AND ($8::bigint IS NULL
            OR (failed_at, name) > (timestamptz 'epoch' + $8::bigint * interval '1 microsecond', $9::text))
        AND failed_at <= timestamptz 'epoch' + until * interval '1 microsecond'
    ORDER BY failed_at, name
    LIMIT $10::bigint
) AS page ON true
ORDER BY failed_at, name
