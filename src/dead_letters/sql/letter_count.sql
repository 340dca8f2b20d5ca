-- Counts the letters of a queue. $1 is 'letter_count', as described in `letter_keep.sql`, $2 the queue.
SELECT 'letter_count', count(name)
FROM (SELECT 1 AS own WHERE $1::text = 'letter_count') AS own
LEFT JOIN mx_job_webhook_dead_letters ON queue = $2::text
GROUP BY own
