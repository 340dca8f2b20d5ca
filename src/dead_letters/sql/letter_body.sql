-- Returns the body of a letter. $1 is 'letter_body', as described in `letter_keep.sql`, $2 the queue, $3
-- the name.
SELECT 'letter_body', body
FROM (SELECT WHERE $1::text = 'letter_body') AS own
LEFT JOIN mx_job_webhook_dead_letters ON queue = $2::text AND name = $3::text
