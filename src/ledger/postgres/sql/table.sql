-- Every event that is claimed or settled. Applied to a table of an earlier version, this brings it to this one.
CREATE TABLE IF NOT EXISTS mx_job_webhook_events (
    -- The job's guid.
    job text COLLATE "C" NOT NULL,
    -- The status, and what else tells the event from the others of its job.
    event text COLLATE "C" NOT NULL,
    -- Unix seconds and their fraction, if the event has a time that orders it.
    updated_at numeric,
    -- Of the claim that holds it, which grows with every claim; or of the one that settled it.
    token bigint NOT NULL,
    -- Until when it is claimed; past, if the claim was given back.
    leased_until timestamptz NOT NULL,
    -- When its callback had succeeded.
    settled_at timestamptz,
    PRIMARY KEY (job, event)
);
-- Before version 1, a time had no fraction. Where it has the type already, this changes nothing.
ALTER TABLE mx_job_webhook_events ALTER COLUMN updated_at TYPE numeric;
-- For `prune`.
CREATE INDEX IF NOT EXISTS mx_job_webhook_events_over
    ON mx_job_webhook_events (coalesce(settled_at, leased_until));
COMMENT ON TABLE mx_job_webhook_events IS 'mx-job-webhook schema 1';
