-- Writes to the log of changes, and waits like any change until that is confirmed.
SELECT 'commits' FROM pg_logical_emit_message(true, 'mx-job-webhook', '')
