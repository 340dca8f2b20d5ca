-- Deletes a letter that was replayed with success. $1 is 'letter_settle', as described in `letter_keep.sql`. $2
-- the queue, $3 the name, $4 the revision that was replayed.
--
-- A letter that was kept again meanwhile has another revision, and stays. The fence does not matter: if the lease has
-- expired, the event was handled nevertheless.
WITH gone AS (
    DELETE FROM mx_job_webhook_dead_letters
    WHERE queue = $2::text AND name = $3::text AND revision = $4::bigint
        AND $1::text = 'letter_settle'
    RETURNING 1
)
SELECT 'letter_settle', count(*) FROM gone
