-- Returns a page of letters without their bodies, the newest failure first. $1 is 'letter_list', as described in
-- `letter_keep.sql`. $2 the queue. $3 to $7 are the filter, each null for all letters: the kind, the status, a part of the error, and
-- the times in µs from which on and before which they failed. $8 and $9 are the time and the name of the last letter
-- of the previous page, $10 the maximum number.
--
-- The statement is planned with its parameters, so that conditions on nulls cost nothing.
SELECT 'letter_list', name, kind, guid, status, tries, error,
    (extract(epoch FROM failed_at) * 1000000)::bigint, (extract(epoch FROM first_failed_at) * 1000000)::bigint
FROM (SELECT WHERE $1::text = 'letter_list') AS own LEFT JOIN (
    SELECT name, kind, guid, status, tries, error, failed_at, first_failed_at
    FROM mx_job_webhook_dead_letters
    WHERE queue = $2::text
        AND ($3::text IS NULL OR kind = $3::text)
        AND ($4::text IS NULL OR status = $4::text)
        AND ($5::text IS NULL OR strpos(error, $5::text) > 0)
        AND ($6::bigint IS NULL OR failed_at >= timestamptz 'epoch' + $6::bigint * interval '1 microsecond')
        AND ($7::bigint IS NULL OR failed_at < timestamptz 'epoch' + $7::bigint * interval '1 microsecond')
        AND ($8::bigint IS NULL
            OR (failed_at, name) < (timestamptz 'epoch' + $8::bigint * interval '1 microsecond', $9::text))
    ORDER BY failed_at DESC, name DESC
    LIMIT $10::bigint
) AS page ON true
ORDER BY failed_at DESC, name DESC
