-- Returns the names of letters, the oldest failure first. $1 is 'letter_oldest', as described in `letter_keep.sql`. $2
-- to $6 are the filter, as in `letter_list.sql`. $7 and $8 are the time in µs and the name of the letter before, $9 the
-- maximum number. $10 is the time in µs after which letters are left out; if it is null, it is now, and is returned.
SELECT 'letter_oldest', until, name, (extract(epoch FROM failed_at) * 1000000)::bigint
FROM (
    SELECT coalesce($10::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS until
    WHERE $1::text = 'letter_oldest'
) AS own LEFT JOIN LATERAL (
    SELECT name, failed_at
    FROM mx_job_webhook_dead_letters
    WHERE ($2::text IS NULL OR kind = $2::text)
        AND ($3::text IS NULL OR status = $3::text)
        AND ($4::text IS NULL OR strpos(error, $4::text) > 0)
        AND ($5::bigint IS NULL OR failed_at >= timestamptz 'epoch' + $5::bigint * interval '1 microsecond')
        AND ($6::bigint IS NULL OR failed_at < timestamptz 'epoch' + $6::bigint * interval '1 microsecond')
        AND ($7::bigint IS NULL
            OR (failed_at, name) > (timestamptz 'epoch' + $7::bigint * interval '1 microsecond', $8::text))
        AND failed_at <= timestamptz 'epoch' + until * interval '1 microsecond'
    ORDER BY failed_at, name
    LIMIT $9::bigint
) AS page ON true
ORDER BY failed_at, name
