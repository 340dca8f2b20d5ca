-- What this crate adds to apalis' tables.
CREATE INDEX IF NOT EXISTS mx_job_webhook_dead
    ON apalis.jobs (job_type, coalesce(done_at, run_at), idempotency_key COLLATE "C")
    WHERE status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts);
CREATE INDEX IF NOT EXISTS mx_job_webhook_done ON apalis.jobs (job_type, done_at) WHERE status = 'Done';
COMMENT ON INDEX apalis.mx_job_webhook_done IS 'mx-job-webhook queue schema 1';
