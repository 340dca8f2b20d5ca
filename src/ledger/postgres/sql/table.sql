-- All events that are claimed or settled. If the table has an earlier version, these statements migrate it.
CREATE TABLE IF NOT EXISTS mx_job_webhook_events (
    -- The job's guid.
    job text COLLATE "C" NOT NULL,
    -- The rest of the event's name: the status and the version.
    event text COLLATE "C" NOT NULL,
    -- Unix seconds with their fraction, if the event has an ordering time.
    updated_at numeric,
    -- The token of the latest claim, or of the claim that settled the event. It grows with every claim.
    token bigint NOT NULL,
    -- When the lease expires. It is in the past if the claim was released.
    leased_until timestamptz NOT NULL,
    -- When the event was settled.
    settled_at timestamptz,
    PRIMARY KEY (job, event)
);
-- Before version 1, times had no fraction. If the column already has this type, nothing changes.
ALTER TABLE mx_job_webhook_events ALTER COLUMN updated_at TYPE numeric;
-- The index for `prune`.
CREATE INDEX IF NOT EXISTS mx_job_webhook_events_over
    ON mx_job_webhook_events (coalesce(settled_at, leased_until));
COMMENT ON TABLE mx_job_webhook_events IS 'mx-job-webhook schema 1';
