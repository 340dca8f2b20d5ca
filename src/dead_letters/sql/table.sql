-- Events whose callback failed for good, and bodies that no callback took.
CREATE TABLE IF NOT EXISTS mx_job_webhook_dead_letters (
    -- The name of the `JobQueue` that keeps it, or an empty text.
    queue text COLLATE "C" NOT NULL DEFAULT '',
    -- The event's name, with a digest in place of a part that is long or contains a NUL. For other bodies, the kind
    -- and a digest of the body.
    name text COLLATE "C" NOT NULL,
    -- 'event', 'undecodable' or 'other_webhook'.
    kind text COLLATE "C" NOT NULL,
    -- The job's guid in UTF-8, and its status as in the event's name, if it is an event.
    guid bytea,
    status text COLLATE "C",
    -- How often it was kept, or replayed without success.
    tries bigint NOT NULL,
    -- The latest error with its causes, on one line.
    error text COLLATE "C" NOT NULL,
    -- The body as it came.
    body bytea NOT NULL,
    first_failed_at timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    -- Different after each failure.
    revision bigint NOT NULL,
    -- The number of the latest replay. It grows with every replay.
    fence bigint NOT NULL,
    -- Until when a replay keeps other processes from starting one.
    replaying_until timestamptz,
    PRIMARY KEY (queue, name)
);
-- The index for pages, replays in order, and `prune`.
CREATE INDEX IF NOT EXISTS mx_job_webhook_dead_letters_failed
    ON mx_job_webhook_dead_letters (queue, failed_at, name);
-- The indexes for pages of a kind or a status that is rare.
CREATE INDEX IF NOT EXISTS mx_job_webhook_dead_letters_kind
    ON mx_job_webhook_dead_letters (queue, kind, failed_at, name);
CREATE INDEX IF NOT EXISTS mx_job_webhook_dead_letters_status
    ON mx_job_webhook_dead_letters (queue, status, failed_at, name);
COMMENT ON TABLE mx_job_webhook_dead_letters IS 'mx-job-webhook dead letters schema 1';
