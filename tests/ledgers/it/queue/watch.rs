//! The watch and the failsafe of events that wait in the queue.

use std::time::Duration;

use mx_job_webhook::Receipt;
use mx_job_webhook::watch::{Failsafe, JobWatch, MemoryWatchStore, PostgresWatchStore};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::{Fixture, PATIENCE, Running, completed, logging, quick};
use crate::support::Log;

/// The watch hears of an event when its callback has succeeded, even if its layer is around the queue too.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_watch_hears_of_an_event_when_its_callback_has_succeeded() {
    let fixture = Fixture::new().await;
    let store = PostgresWatchStore::new(fixture.pool.clone());
    store.create_table().await.unwrap();
    let watch = JobWatch::new(store);
    let guid = "JOB-1".parse().unwrap();
    let expected = watch.expect(&guid).await.unwrap();
    let stored = watch.layer().layer(fixture.queue.enqueue());
    assert_eq!(
        stored.oneshot(completed("JOB-1")).await.unwrap(),
        Receipt::Queued
    );

    let mut waiting = tokio::spawn(async move { expected.within(Duration::from_secs(20)).await });
    let early = timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(early.is_err(), "it heard of an event that was only stored");
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, watch.layer().layer(logging(&log))));
    let heard = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(heard.is_ok(), "{heard:?}");
    assert_eq!(log.entries(), ["JOB-1"]);
    worker.end().await;
}

/// Guide: "The job stays expected until a worker has handled the event, or the limit of the failsafe has passed." A worker
/// starts after four seconds. Returns the jobs that were given up, and whether the job was heard of.
async fn after_a_wait_in_the_queue(limit: Duration) -> (Vec<String>, bool) {
    let fixture = Fixture::new().await;
    let watch = JobWatch::new(MemoryWatchStore::new()).with_patience(Duration::from_millis(100));
    let given_up = Log::default();
    let log = given_up.clone();
    let read = |job: mx_job_webhook::job::JobGuid| async move {
        Ok::<_, BoxError>(completed(job.as_str()))
    };
    let failsafe = Failsafe::new(&watch, fixture.queue.enqueue(), read)
        .with_pauses(Duration::from_millis(200), Duration::from_millis(200))
        .with_limit(limit)
        .on_given_up(move |given_up| {
            let log = log.clone();
            async move { log.push(given_up.job().to_string()) }
        });
    let expected = watch.expect(&"JOB-1".parse().unwrap()).await.unwrap();
    let jobs = watch.layer().layer(logging(&Log::default()));
    let heard = async {
        sleep(Duration::from_secs(4)).await;
        // It was stored, and read again, under one name.
        assert_eq!(fixture.rows("status = 'Pending'").await, 1);
        let worker = Running::start(quick(&fixture.queue, jobs));
        fixture.until(1, "status = 'Done'").await;
        worker.end().await;
        expected.within(Duration::from_millis(500)).await
    };
    let stop = Notify::new();
    let heard = async {
        let heard = heard.await;
        stop.notify_one();
        heard
    };
    let ((), heard) = tokio::join!(failsafe.run_until(stop.notified()), heard);
    (given_up.entries(), heard.unwrap().is_some())
}

/// `Failsafe::with_limit`: "If the failsafe stores events in a queue, the limit has to be longer than the queue's tries."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_job_whose_event_waits_in_the_queue_is_given_up_once_the_limit_has_passed() {
    let short = Duration::from_millis(1_500);
    let (given_up, _) = after_a_wait_in_the_queue(short).await;
    assert_eq!(given_up, ["JOB-1"]);
    let long = Duration::from_secs(60);
    let (given_up, is_heard) = after_a_wait_in_the_queue(long).await;
    assert!(given_up.is_empty(), "{given_up:?}");
    assert!(is_heard);
}

/// "The job stays expected until a worker has handled the event": also if that was before it was expected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_failsafe_hears_of_an_event_that_was_handled_before() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;

    let watch = JobWatch::new(MemoryWatchStore::new()).with_patience(Duration::from_millis(100));
    let expected = watch.expect(&"JOB-1".parse().unwrap()).await.unwrap();
    let read = |job: mx_job_webhook::job::JobGuid| async move {
        Ok::<_, BoxError>(completed(job.as_str()))
    };
    let failsafe = Failsafe::new(&watch, fixture.queue.enqueue(), read)
        .with_pauses(Duration::from_millis(200), Duration::from_millis(200));
    let stop = Notify::new();
    let heard = async {
        let heard = expected.within(PATIENCE).await;
        stop.notify_one();
        heard
    };
    let ((), heard) = tokio::join!(failsafe.run_until(stop.notified()), heard);
    assert!(heard.unwrap().is_some());
    assert_eq!(log.entries().len(), 1);
}

/// `JobWatch::layer`: "In a worker of a `JobQueue`, the store is asked again". Its table is away when the callback
/// succeeds, which must not run again because of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_callback_does_not_run_again_because_the_watch_was_away() {
    let fixture = Fixture::new().await;
    let store = PostgresWatchStore::new(fixture.pool.clone());
    store.create_table().await.unwrap();
    let watch = JobWatch::new(store);
    let expected = watch.expect(&"JOB-1".parse().unwrap()).await.unwrap();
    let rename = async |from: &str, to: &str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&fixture.pool)
            .await
            .unwrap();
    };
    let table = "mx_job_webhook_watch";
    rename(table, "away").await;
    fixture.store(completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, watch.layer().layer(logging(&log))));
    sleep(Duration::from_secs(4)).await;
    assert_eq!(fixture.rows("status = 'Running'").await, 1);
    rename("away", table).await;
    let heard = timeout(PATIENCE, expected.within(PATIENCE)).await.unwrap();
    assert!(matches!(heard, Ok(Some(_))), "{heard:?}");
    fixture.until(1, "status = 'Done'").await;
    assert_eq!(log.entries(), ["JOB-1"]);
    worker.end().await;
}
