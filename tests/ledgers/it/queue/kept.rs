//! Rows that a trigger of the application keeps as they were.

use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use tokio::time::{Instant, sleep};

use super::logged::Lines;
use super::refused::{logged_within, orphans};
use super::{Fixture, KILLED, PATIENCE, Running, completed, logging, quick, store};
use crate::support::Log;

/// Makes a trigger keep rows as they were when they change so: with `OLD` those of events with such a name, and with NULL the others. It lets
/// those that are good change.
async fn keep_rows(fixture: &Fixture, when: &str) {
    fixture
        .execute(&format!(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN IF OLD.idempotency_key LIKE 'JOB-old%' THEN RETURN OLD; END IF; RETURN NULL; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN ({when} AND OLD.idempotency_key NOT LIKE 'JOB-good%') EXECUTE FUNCTION keep()"
        ))
        .await;
}

/// Guide: "[returning `OLD`]: an event whose row it keeps is left out". The callback must not run without being recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_row_is_frozen_waits() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.queue.clone().named("frozen-row");
    store(&queue, completed("JOB-bad")).await;
    // It has failed once.
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Failed', attempts = 1, max_attempts = 5, lock_at = now(), done_at = now();
             CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN OLD; END $f$;
             CREATE TRIGGER frozen BEFORE UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION frozen()",
        )
        .await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    sleep(Duration::from_secs(5)).await;
    worker.task.abort();
    assert!(log.entries().is_empty(), "{:?}", log.entries());
    let blamed = lines.count(&["refuses to change their rows", "frozen-row", "JOB-bad"]);
    assert_eq!(blamed, 1);
}

/// Guide: "an event whose row it keeps is left out". A worker with one place does not wait for the time of its next look before it takes the
/// others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_row_is_kept_lets_others_run_at_once() {
    let fixture = Fixture::new().await;
    for guid in ["JOB-old", "JOB-null", "JOB-good"] {
        fixture.store(completed(guid)).await;
    }
    keep_rows(&fixture, "NEW.status = 'Running'").await;
    let log = Log::default();
    let worker = quick(&fixture.other(), logging(&log)).with_concurrency(1);
    let worker = Running::start(worker.with_poll_interval(Duration::from_secs(3600)));
    assert!(logged_within(&log, 1, PATIENCE / 2).await);
    assert_eq!(log.entries(), ["JOB-good"]);
    worker.end().await;
}

/// The same for events of a dead worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_of_a_dead_worker_whose_row_is_kept_is_logged_and_tried_again() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let guids = ["JOB-old", "JOB-null", "JOB-good"].map(str::to_owned);
    orphans(&fixture, &guids).await;
    fixture
        .execute(
            "UPDATE apalis.jobs SET job_type = 'kept'; UPDATE apalis.workers SET worker_type = 'kept'",
        )
        .await;
    keep_rows(&fixture, "NEW.status = 'Pending'").await;
    let log = Log::default();
    let queue = fixture.other().named("kept");
    let worker = Running::start(quick(&queue, logging(&log)));
    assert!(logged_within(&log, 1, PATIENCE).await);
    assert_eq!(log.entries(), ["JOB-good"]);
    let blamed = ["refuses to change their rows", "\"kept\"", "events=2"];
    let start = Instant::now();
    while lines.count(&blamed) == 0 {
        assert!(start.elapsed() < PATIENCE, "{}", lines.text());
        sleep(Duration::from_millis(50)).await;
    }
    fixture.execute("DROP TRIGGER keep ON apalis.jobs").await;
    assert!(logged_within(&log, 3, 2 * PATIENCE).await);
    assert_eq!(lines.count(&blamed), 1);
    worker.end().await;
}

/// The same for results: the callback does not run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_result_whose_row_is_kept_is_logged_and_recorded_later() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.other().named("kept-result");
    for guid in ["JOB-old", "JOB-null", "JOB-good"] {
        store(&queue, completed(guid)).await;
    }
    keep_rows(&fixture, "NEW.status = 'Done'").await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    let start = Instant::now();
    while lines.count(&["refuses to change their rows", "kept-result"]) == 0 {
        assert!(start.elapsed() < 2 * PATIENCE, "{}", lines.text());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fixture.rows("status = 'Done'").await, 1);
    fixture.execute("DROP TRIGGER keep ON apalis.jobs").await;
    fixture.until(3, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    assert_eq!(log.entries().len(), 3);
    assert!(lines.count(&["refuses to change their rows", "kept-result"]) <= 2);
}

/// `replay`, `replay_all` and `run_now` say what has changed.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_dead_letter_whose_row_is_kept_is_not_replayed() {
    let fixture = Fixture::new().await;
    for guid in [
        "JOB-old",
        "JOB-null",
        "JOB-good",
        "JOB-old-paused",
        "JOB-null-paused",
    ] {
        fixture.store(completed(guid)).await;
    }
    fixture
        .execute(&format!(
            "{KILLED} WHERE idempotency_key NOT LIKE '%paused%';
             UPDATE apalis.jobs SET run_at = now() + interval '1 day' WHERE status = 'Pending'"
        ))
        .await;
    keep_rows(&fixture, "true").await;
    for guid in ["JOB-old", "JOB-null"] {
        let name = format!("{guid} COMPLETED -");
        assert!(!fixture.queue.replay(&name).await.unwrap());
        let name = format!("{guid}-paused COMPLETED -");
        assert!(!fixture.queue.run_now(&name).await.unwrap());
    }
    let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
    assert_eq!(replayed.unwrap().succeeded(), 1);
    assert_eq!(fixture.rows("status = 'Killed'").await, 2);
}
