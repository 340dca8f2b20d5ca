-- Marks a table without a version whose columns are already those of version 1.
COMMENT ON TABLE mx_job_webhook_events IS 'mx-job-webhook schema 1';
