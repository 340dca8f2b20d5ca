-- The table of before version 1 whose columns are those of version 1 already.
COMMENT ON TABLE mx_job_webhook_events IS 'mx-job-webhook schema 1';
