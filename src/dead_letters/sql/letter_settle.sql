-- Deletes a letter that was replayed with success. $1 is 'letter_settle', as described in `letter_keep.sql`. $2 the
-- name, $3 the revision that was replayed.
--
-- A letter that was kept again meanwhile has another revision, and stays. The fence does not matter: if the lease has
-- expired, the event was handled nevertheless.
WITH gone AS (
    DELETE FROM mx_job_webhook_dead_letters
    WHERE name = $2::text AND revision = $3::bigint AND $1::text = 'letter_settle'
    RETURNING 1
)
SELECT 'letter_settle', count(*) FROM gone
