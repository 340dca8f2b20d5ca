//! Rows that a trigger of the application keeps as they were.

use std::time::Duration;

use mx_job_webhook::JobEvent;
use mx_job_webhook::dead_letters::LetterFilter;
use tokio::time::{Instant, sleep, timeout};

use super::logged::Lines;
use super::refused::{logged_within, orphans};
use super::{
    Fixture, KILLED, PATIENCE, Running, completed, logging, quick, slow, store, until_logged,
};
use crate::support::Log;

/// Makes 1,500 further rows like the one that is stored.
const COPIES: &str = "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key)
     SELECT 'x' || n, job_type, job, status, 0, 0, now(), 0, 'JOB-' || n || ' COMPLETED -'
     FROM apalis.jobs, generate_series(1, 1500) n";

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
    let blamed = ["refuses to change their rows", "frozen-row", "JOB-bad"];
    let start = Instant::now();
    while lines.count(&blamed) == 0 {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_secs(3)).await;
    worker.task.abort();
    assert!(log.entries().is_empty(), "{:?}", log.entries());
    assert_eq!(lines.count(&blamed), 1);
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

/// Guide: "These tries take at most half of a worker's time", and "After 30 s of silence, others take its events over. They look every
/// 7.5 s". Forty rows of a dead worker are kept by a trigger, which takes 1.4 s when they are tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn rows_that_are_kept_slowly_take_half_of_the_time_of_a_take_over() {
    let fixture = Fixture::new().await;
    let mut guids: Vec<_> = (0..40).map(|n| format!("JOB-kept-{n}")).collect();
    guids.push("JOB-good".to_owned());
    orphans(&fixture, &guids).await;
    fixture
        .execute(
            "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
             VALUES ('dying', 'mx-jobs', 'mx-job-webhook', '', now() + interval '1 hour', now());
             UPDATE apalis.jobs SET lock_by = 'dying' WHERE idempotency_key LIKE 'JOB-good %';
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN OLD; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (OLD.status = 'Running' AND OLD.idempotency_key LIKE 'JOB-kept%') EXECUTE FUNCTION keep()",
        )
        .await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(4));
    let worker = Running::start(worker);
    sleep(Duration::from_secs(10)).await;
    fixture
        .execute(
            "CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(1.4); RETURN OLD; END $f$",
        )
        .await;
    sleep(Duration::from_secs(22)).await;
    assert!(log.entries().is_empty());
    fixture
        .execute(
            "UPDATE apalis.workers SET last_seen = now() - interval '1 hour' WHERE id = 'dying'",
        )
        .await;
    assert!(logged_within(&log, 1, PATIENCE).await);
    worker.task.abort();
}

/// `replay_all`: "Returns all dead letters that match to the queue". A trigger keeps the oldest of 1,501.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_that_is_kept_keeps_none_of_1500_from_a_replay() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-kept")).await;
    fixture.execute(COPIES).await;
    fixture.execute(KILLED).await;
    fixture
        .execute(
            "UPDATE apalis.jobs SET done_at = done_at - interval '1 minute' WHERE idempotency_key LIKE 'JOB-kept %';
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN OLD; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (OLD.idempotency_key LIKE 'JOB-kept %') EXECUTE FUNCTION keep()",
        )
        .await;
    let replayed = fixture
        .queue
        .replay_all(&LetterFilter::new())
        .await
        .unwrap();
    let waiting = fixture.rows("status = 'Pending'").await;
    assert_eq!(waiting, 1500, "{replayed:?}");
}

/// `replay_all`: "The counts are those of letters that were returned to the queue, and of those that stay: […] rows that the database
/// refuses to change."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_that_is_kept_counts_among_those_that_stay() {
    let fixture = Fixture::new().await;
    for guid in ["JOB-kept", "JOB-good"] {
        fixture.store(completed(guid)).await;
    }
    fixture.execute(KILLED).await;
    fixture
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NULL; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (OLD.idempotency_key LIKE 'JOB-kept %') EXECUTE FUNCTION keep()",
        )
        .await;
    let replayed = fixture
        .queue
        .replay_all(&LetterFilter::new())
        .await
        .unwrap();
    let counts = (replayed.succeeded(), replayed.failed());
    assert_eq!(counts, (1, 1), "{replayed:?}");
}

/// `prune`: "Deletes the rows of events that were handled longer ago than this". A trigger keeps the oldest, as for a legal hold: more
/// than two statements delete at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn rows_that_are_kept_keep_no_others_from_a_prune() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB")).await;
    fixture
        .execute(
            "INSERT INTO apalis.jobs
                 SELECT (jsonb_populate_record(jobs, jsonb_build_object('id', id || number, 'idempotency_key', number))).*
                 FROM apalis.jobs, generate_series(1, 6999) AS number;
             UPDATE apalis.jobs SET status = 'Done', done_at = now() - interval '49 hours';
             UPDATE apalis.jobs SET done_at = now() - interval '60 hours' WHERE idempotency_key < '55';
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NULL; END $f$;
             CREATE TRIGGER keep BEFORE DELETE ON apalis.jobs FOR EACH ROW
                 WHEN (OLD.done_at < now() - interval '59 hours') EXECUTE FUNCTION keep()",
        )
        .await;
    let kept = fixture.rows("done_at < now() - interval '59 hours'").await;
    assert!((4_001..6_000).contains(&kept), "{kept}");
    let pruned = timeout(
        PATIENCE,
        fixture.queue.prune(Duration::from_secs(48 * 3600)),
    );
    let left = 7_000 - pruned.await.unwrap().unwrap();
    assert_eq!(i64::try_from(left).unwrap(), kept);
    assert_eq!(fixture.rows("true").await, kept);
}

/// Guide: "an event whose row it keeps is left out", and "Workers […] go on with the other events". The body of the kept one has 1 MiB, and the
/// worker looks rarely.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_large_event_that_is_kept_lets_others_run_at_once() {
    let fixture = Fixture::new().await;
    let padding = "x".repeat(1 << 20);
    let body = format!(
        r#"{{"job": {{"guid": "JOB-kept", "status_name": "COMPLETED"}}, "more": "{padding}"}}"#
    );
    fixture.store(JobEvent::decode(body).unwrap()).await;
    fixture.store(completed("JOB-good")).await;
    fixture
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NULL; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (OLD.idempotency_key LIKE 'JOB-kept %') EXECUTE FUNCTION keep()",
        )
        .await;
    let log = Log::default();
    let worker = quick(&fixture.other(), logging(&log));
    let worker = Running::start(worker.with_poll_interval(Duration::from_secs(3600)));
    assert!(logged_within(&log, 1, PATIENCE / 2).await);
    worker.end().await;
}

/// `run_until`: "After the shutdown, it waits for the database as long as for a silent worker." A trigger keeps results and events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_ends_although_results_are_kept_and_is_logged() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.other().named("kept-at-the-end");
    store(&queue, completed("JOB-1")).await;
    fixture
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN OLD; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (NEW.status = 'Done') EXECUTE FUNCTION keep()",
        )
        .await;
    let log = Log::default();
    let worker =
        Running::start(quick(&queue, logging(&log)).with_dead_after(Duration::from_secs(5)));
    until_logged(&log, 1).await;
    sleep(Duration::from_secs(1)).await;
    worker.shut_down();
    let ended = timeout(PATIENCE, worker.task).await;
    assert!(ended.is_ok());
    let given_up = [
        "without having recorded",
        "kept-at-the-end",
        "JOB-1",
        "events=1",
    ];
    assert_eq!(lines.count(&given_up), 1, "{}", lines.text());
}

/// Guide: "When a row changes, [a trigger] should raise an error instead of returning NULL or `OLD`: an event whose row it keeps is left out".
/// "An event must never run without being recorded, or twice at once". The trigger keeps the status only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_status_alone_is_kept_does_not_run_again_and_again() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-kept")).await;
    fixture
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.status := OLD.status; RETURN NEW; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION keep()",
        )
        .await;
    let log = Log::default();
    let jobs = slow(&log, Duration::from_secs(2));
    let worker = Running::start(quick(&fixture.queue, jobs).with_dead_after(PATIENCE));
    sleep(Duration::from_secs(6)).await;
    worker.task.abort();
    let ran = log.entries().len();
    assert!(ran <= 1, "it ran {ran} times");
}
