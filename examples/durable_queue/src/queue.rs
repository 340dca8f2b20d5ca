//! The queue: `store` puts an event into it, and `work` runs the events.
//!
//! Two settings of apalis 1.0 are essential: the size of a batch, and a unique name for each worker.
//! Comments beside them give the reasons.

use std::error::Error as _;
use std::time::Duration;

use apalis::layers::retry::HasherRng;
use apalis::layers::retry::backoff::{
    ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff as _,
};
use apalis::prelude::{
    AbortError, Attempt, BackendExt as _, ParallelizeLayer, RetryPolicy, TaskBuilder,
    WorkerBuilder, WorkerBuilderExt as _, WorkerError,
};
use apalis_postgres::{Config, PostgresStorage, queries};
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::{Error, JobEvent, Receipt};
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::sleep;
use tower::{BoxError, Service, ServiceExt as _};

/// The queue's name, which is also in the trigger `KEEP`.
const QUEUE: &str = "mx-jobs";
/// The number of events that a worker holds at a time, including those that wait for their next try.
const CONCURRENCY: usize = 4;
/// The number of tries of an event, with pauses of 1, 2, 4 and 8 seconds.
const TRIES: usize = 5;

/// Keeps dead letters, open events, and the rows that identify duplicates from any `DELETE`.
///
/// apalis ships a vacuum, `queries/backend/vacuum.sql`, that deletes every task that has ended. The
/// trigger skips rows, because an error would fail the vacuum for the application's other queues.
/// 48 hours are twice the time for which MX delivers.
const KEEP: &str = "
CREATE OR REPLACE FUNCTION apalis.mx_jobs_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.job_type <> 'mx-jobs'
        OR (OLD.status = 'Done' AND OLD.done_at < now() - interval '48 hours') THEN
        RETURN OLD;
    END IF;
    RETURN NULL;
END $$;
DO $$
BEGIN
    -- Creating a trigger waits for every transaction that writes to the table.
    IF NOT EXISTS (SELECT FROM pg_trigger
            WHERE tgrelid = 'apalis.jobs'::regclass AND tgname = 'mx_jobs_keep') THEN
        CREATE TRIGGER mx_jobs_keep BEFORE DELETE ON apalis.jobs
            FOR EACH ROW EXECUTE FUNCTION apalis.mx_jobs_keep();
    END IF;
END $$";

/// The number of tries of an event, including the current one. Callbacks read it in the event's extensions.
#[derive(Clone, Copy)]
pub(crate) struct Tries(pub(crate) usize);

/// Creates missing tables. One process at a time may call it.
pub(crate) async fn set_up(pool: &PgPool) -> Result<(), apalis_postgres::Error> {
    PostgresStorage::setup(pool).await?;
    sqlx::raw_sql(KEEP).execute(pool).await?;
    Ok(())
}

/// Stores an event. Returns once it is committed, so an event that is answered 204 survives a crash.
///
/// It stores the body unchanged, and no headers. The table holds each event once, because the event's
/// name is unique there. So a second delivery of an event changes nothing. Different events have
/// different names.
pub(crate) async fn store(pool: PgPool, event: JobEvent) -> Result<Receipt, BoxError> {
    let task = TaskBuilder::new(event.body().to_vec())
        .idempotency_key(EventName::of(&event).to_string())
        .max_attempts(TRIES)
        .build();
    // One event per statement: in a batch, one duplicate would make the database refuse all others.
    let mut connection = pool.acquire().await?;
    match queries::push_tasks(&mut *connection, QUEUE, vec![task]).await {
        Err(apalis_postgres::Error::Database(sqlx::Error::Database(error)))
            if error.constraint() == Some("idx_jobs_idempotency_key") => {}
        stored => stored?,
    }
    Ok(Receipt::Handled)
}

/// Runs events from the queue until `stop`, and then finishes those that it holds.
pub(crate) async fn work<S>(
    pool: &PgPool,
    jobs: S,
    dead_after: Duration,
    stop: watch::Receiver<bool>,
) where
    S: Service<JobEvent, Response = Receipt, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    while !*stop.borrow() {
        if let Err(error) = delete_old_workers(pool).await {
            eprintln!("durable_queue: cannot delete old workers: {error}");
        }
        let config = Config::default()
            .queue(QUEUE)
            // Events that a worker has fetched and does not run yet delay its heartbeats and its
            // results. With larger batches, a worker with slow callbacks would count as dead.
            .batch_size(1)
            // Defaults to a heartbeat every 30 seconds, and dead after 5 minutes. apalis rounds the
            // product down to seconds.
            .heartbeat_interval(dead_after / 4)
            .missed_heartbeats(4);
        let storage = PostgresStorage::<Box<RawValue>>::new(pool)
            .with_config(config)
            .poll_with_interval(Duration::from_secs(1));
        let jobs = jobs.clone();
        let worker = WorkerBuilder::new(worker_name())
            .backend(storage)
            .concurrency(CONCURRENCY)
            .retry(RetryPolicy::retries(TRIES - 1).with_backoff(backoff()))
            .layer(ParallelizeLayer::new(tokio::spawn))
            .build(move |webhook: Box<RawValue>, attempt: Attempt| {
                attempted(jobs.clone(), webhook, Tries(attempt.current()))
            });
        println!("working");
        let mut stop = stop.clone();
        let stopped = async move {
            _ = stop.wait_for(|set| *set).await;
            Ok::<(), WorkerError>(())
        };
        // A worker ends if the database is unreachable for a moment. Its events run again once it
        // counts as dead.
        if let Err(error) = worker.run_until(stopped).await {
            eprintln!("durable_queue: a worker ended: {error}");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Deletes the rows of workers that were last seen more than a day ago; each start adds one.
///
/// The row of a dead worker that holds events stays, because apalis needs it to put them back. A worker
/// that was only frozen ends when it finds its row missing.
async fn delete_old_workers(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH old AS (
            SELECT id FROM apalis.workers
            WHERE worker_type = $1 AND last_seen < now() - interval '1 day' AND NOT EXISTS (
                SELECT FROM apalis.jobs
                WHERE lock_by = workers.id AND status IN ('Queued', 'Running'))
        ), released AS (
            UPDATE apalis.jobs SET lock_by = NULL FROM old WHERE lock_by = old.id
        )
        DELETE FROM apalis.workers USING old WHERE workers.id = old.id",
    )
    .bind(QUEUE)
    .execute(pool)
    .await?;
    Ok(())
}

/// Returns a unique name. If a new worker had the name of a dead one, the dead worker's events would
/// count as running and would never run.
fn worker_name() -> String {
    format!("{QUEUE}-{:032x}", fastrand::u128(..))
}

fn backoff() -> ExponentialBackoff {
    let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
    ExponentialBackoffMaker::new(first, longest, 0.1, HasherRng::default())
        .expect("the first is not the longest")
        .make_backoff()
}

/// Runs one try of one event. An `AbortError` ends the tries.
async fn attempted<S>(jobs: S, webhook: Box<RawValue>, tries: Tries) -> Result<(), BoxError>
where
    S: Service<JobEvent, Response = Receipt, Error = Error>,
{
    // apalis also counts tries whose worker died, and has no limit for those.
    if tries.0 > TRIES {
        return Err(AbortError::new("its workers died").into());
    }
    let mut event =
        JobEvent::decode(String::from(Box::<str>::from(webhook))).map_err(AbortError::new)?;
    event.extensions_mut().insert(tries);
    match jobs.oneshot(event).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_permanent() => Err(AbortError::new(in_full(&error)).into()),
        Err(error) => Err(in_full(&error).into()),
    }
}

/// Returns the error's text with its sources, because the table keeps only a text.
fn in_full(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use mx_job_webhook::{JobRouter, Permanent};

    use super::*;

    #[tokio::test]
    async fn permanent_failures_and_the_last_try_end_the_tries() {
        let jobs = JobRouter::new()
            .on_completed(|_| async { Err("not yet") })
            .on_denied(|_| async { Err(Permanent::new("never")) });
        let completed = r#"{"job": {"guid": "JOB-1", "status": 6}}"#;
        let denied = r#"{"job": {"guid": "JOB-1", "status_name": "DENIED"}}"#;
        let cases = [
            (completed, TRIES, false, "not yet"),
            (completed, TRIES + 1, true, "its workers died"),
            (denied, 1, true, "never"),
            (r#"{"type": "BALANCE"}"#, 1, true, "another kind"),
        ];
        for (webhook, tries, last, expected) in cases {
            let webhook = RawValue::from_string(webhook.to_owned()).unwrap();
            let error = attempted(jobs.clone(), webhook, Tries(tries)).await;
            let error = error.unwrap_err();
            assert_eq!(error.is::<AbortError>(), last, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
