-- Ends an event in the application's transaction. $1 the id, $2 the worker, $3 the number of the try, $4 how long
-- the transaction may be idle, in ms.
--
-- The server confirms the transaction when it is on its disk and on its synchronous standbys, even if the
-- application has a weaker setting. If the client disappears, the server releases its locks after the time in $4. sqlx logs
-- what the server notices, such as the name of a table that a trigger wants to create.
WITH settings AS (
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
            THEN set_config('synchronous_commit', 'on', true) END,
        CASE WHEN current_setting('idle_in_transaction_session_timeout') = '0'
            THEN set_config('idle_in_transaction_session_timeout', $4 || 'ms', true) END,
        set_config('client_min_messages', 'error', true)
), done AS (
    UPDATE apalis.jobs
    SET status = 'Done', attempts = $3, last_result = '{"Ok": null}', lock_by = NULL,
        done_at = clock_timestamp()
    FROM settings
    WHERE id = $1 AND lock_by = $2 AND attempts = $3 - 1 AND status = 'Running'
    RETURNING status
)
-- A trigger can keep the row as it was.
SELECT 'commit_in', EXISTS (SELECT FROM done WHERE status = 'Done')
FROM settings
