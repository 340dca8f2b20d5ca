//! Rows whose change waits for long, and roles whose transactions end early.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::refused::orphans;
use super::{
    Fixture, PATIENCE, Running, completed, logging, quick, sleeping_trigger, store, until_logged,
};
use crate::engines::postgres::{Postgres, Version};
use crate::support::Log;
use harness::servers::Folder;

pub(super) async fn server(
    version: Version,
    settings: &'static [&'static str],
) -> (Folder, Postgres) {
    let start = move || {
        let folder = Folder::new();
        let server = Postgres::primary(&folder, version, settings);
        (folder, server)
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Guide: "If they refuse to change a stored row, or let the change wait, its event waits. Workers […] go on with the other events".
/// The role has a `transaction_timeout`, as Postgres 17 and later have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_waits_keeps_no_other_one_with_a_transaction_timeout() {
    let (_folder, server) = server(Version::V18, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let options = server.options().options([("transaction_timeout", "3s")]);
    let (_pool, queue) = super::queue(options);
    let condition = "NEW.idempotency_key LIKE 'JOB-slow %'";
    sleeping_trigger(&pool, "UPDATE", condition, 10.0).await;
    store(&queue, completed("JOB-slow")).await;
    store(&queue, completed("JOB-good")).await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    let start = Instant::now();
    while log.entries().is_empty() && start.elapsed() < 2 * PATIENCE {
        sleep(Duration::from_millis(50)).await;
    }
    worker.task.abort();
    assert_eq!(log.entries(), ["JOB-good"]);
}

/// The same for events of dead workers: "After 30 s of silence, others take its events over."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_cannot_be_taken_over_keeps_no_other_one_with_a_transaction_timeout() {
    let (_folder, server) = server(Version::V18, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let options = server.options().options([("transaction_timeout", "3s")]);
    let (_pool, queue) = super::queue(options);
    store(&queue, completed("JOB-slow")).await;
    store(&queue, completed("JOB-good")).await;
    sqlx::raw_sql(
        "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
         VALUES ('dead', 'mx-jobs', 'mx-job-webhook', '', now() - interval '1 hour', now() - interval '1 hour');
         UPDATE apalis.jobs SET status = 'Running', lock_by = 'dead', lock_at = now() - interval '1 hour', max_attempts = 12",
    )
    .execute(&pool)
    .await
    .unwrap();
    let condition = "NEW.idempotency_key LIKE 'JOB-slow %'";
    sleeping_trigger(&pool, "UPDATE", condition, 10.0).await;
    let log = Log::default();
    let dead_after = Duration::from_secs(24);
    let worker = Running::start(quick(&queue, logging(&log)).with_dead_after(dead_after));
    let start = Instant::now();
    while log.entries().is_empty() && start.elapsed() < 4 * dead_after {
        sleep(Duration::from_millis(50)).await;
    }
    worker.task.abort();
    assert_eq!(log.entries(), ["JOB-good"]);
}

/// The same for events that are stored together: "only that one is answered 503".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_cannot_be_stored_fails_no_other_one_with_a_transaction_timeout() {
    let (_folder, server) = server(Version::V18, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let options = server.options().options([("transaction_timeout", "2s")]);
    let (_pool, queue) = super::queue(options);
    let queue = queue.with_max_connections(1);
    let condition = "NEW.idempotency_key LIKE 'JOB-7 %'";
    sleeping_trigger(&pool, "INSERT", condition, 10.0).await;
    let store = |number| {
        let event = completed(&format!("JOB-{number}"));
        tokio::spawn(queue.enqueue().oneshot(event))
    };
    let deliveries: Vec<_> = (0..16).map(store).collect();
    let mut refused = Vec::new();
    for (number, delivery) in deliveries.into_iter().enumerate() {
        if delivery.await.unwrap().is_err() {
            refused.push(number);
        }
    }
    assert_eq!(refused, [7]);
}

/// Guide: "If they refuse to change a stored row, or let the change wait, its event waits. Workers log an error, go on with the other
/// events". The results of some events wait. That of another one is recorded.
async fn a_result_beside_those_that_wait(waiting: usize) {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Done' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(waiting));
    for number in 0..waiting {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    until_logged(&log, waiting).await;
    fixture.store(completed("JOB-good")).await;
    until_logged(&log, waiting + 1).await;
    let start = Instant::now();
    while fixture.rows("status = 'Done'").await == 0 && start.elapsed() < 5 * PATIENCE {
        sleep(Duration::from_millis(50)).await;
    }
    worker.task.abort();
    let after = start.elapsed();
    assert!(after < 2 * PATIENCE, "it was recorded after {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_result_beside_five_that_wait_is_recorded() {
    a_result_beside_those_that_wait(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_result_beside_twelve_that_wait_is_recorded() {
    a_result_beside_those_that_wait(12).await;
}

/// The same for events that wait to be taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_twelve_that_wait_runs() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for number in 0..12 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    fixture.store(completed("JOB-good")).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    let start = Instant::now();
    while log.entries().is_empty() && start.elapsed() < 5 * PATIENCE {
        sleep(Duration::from_millis(50)).await;
    }
    worker.task.abort();
    let after = start.elapsed();
    assert!(after < 2 * PATIENCE, "it ran after {after:?}");
}

/// The same for events of a dead worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_beside_twelve_that_cannot_be_taken_over_run() {
    const DEAD_AFTER: Duration = Duration::from_secs(12);
    let fixture = Fixture::new().await;
    let guids = |kind| (0..12).map(move |number| format!("JOB-{kind}-{number}"));
    let guids: Vec<_> = guids("bad").chain(guids("good")).collect();
    orphans(&fixture, &guids).await;
    let condition = "NEW.status = 'Pending' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_concurrency(12);
    let worker = Running::start(worker.with_dead_after(DEAD_AFTER));
    let start = Instant::now();
    while log.entries().len() < 12 && start.elapsed() < 10 * DEAD_AFTER {
        sleep(Duration::from_millis(50)).await;
    }
    worker.task.abort();
    let after = start.elapsed();
    assert!(after < 10 * DEAD_AFTER / 3, "they ran after {after:?}");
}
