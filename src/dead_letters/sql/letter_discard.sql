-- Deletes a letter. $1 is 'letter_discard', as described in `letter_keep.sql`, $2 the queue, $3 the name.
WITH gone AS (
    DELETE FROM mx_job_webhook_dead_letters
    WHERE queue = $2::text AND name = $3::text AND $1::text = 'letter_discard'
    RETURNING 1
)
SELECT 'letter_discard', count(*) FROM gone
