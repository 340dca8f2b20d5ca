-- What is expected of jobs, and what was heard of them lately.
CREATE TABLE IF NOT EXISTS mx_job_webhook_watch (
    -- The job's guid, or a digest of it if the guid is long or contains a NUL.
    job text COLLATE "C" NOT NULL PRIMARY KEY,
    -- The guid in UTF-8, if `job` is a digest.
    guid bytea,
    -- Different after each change.
    revision bigint NOT NULL,
    -- A JSON document. It is text because `jsonb` cannot store every string.
    entry text NOT NULL,
    stored_at timestamptz NOT NULL,
    -- When the failsafe reads the job.
    due_at timestamptz,
    -- From when on the row is the same as none.
    expires_at timestamptz
);
CREATE INDEX IF NOT EXISTS mx_job_webhook_watch_due
    ON mx_job_webhook_watch (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS mx_job_webhook_watch_expires
    ON mx_job_webhook_watch (expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE mx_job_webhook_watch IS 'mx-job-webhook watch schema 1';
