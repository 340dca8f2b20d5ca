//! Rows whose change waits for long, and roles whose transactions end early.

use std::time::Duration;

use mx_job_webhook::queue::JobQueue;
use mx_job_webhook::{Credentials, JobWebhook};
use sqlx::AssertSqlSafe;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::logged::Lines;
use super::refused::{logged_within, orphans};
use super::{
    Fixture, PATIENCE, Running, completed, logging, quick, sleeping_trigger, slow, store,
    until_logged,
};
use crate::engines::postgres::{Postgres, Version};
use crate::support::{Log, SAMPLE, delivery};
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

/// Stores sixteen events, which arrive together, and returns which of them are refused.
pub(super) async fn refused_of_sixteen(queue: &JobQueue) -> Vec<usize> {
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
    refused
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
    assert_eq!(refused_of_sixteen(&queue).await, [7]);
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

/// Guide: "If they refuse to change a stored row, or let the change wait, its event waits. Workers […] go on with the other
/// events". `with_dead_after` allows one second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_slow_row_of_a_dead_worker_keeps_no_other_one_with_the_shortest_silence() {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-bad".to_owned(), "JOB-good".to_owned()]).await;
    let condition = "NEW.status = 'Pending' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(1));
    let worker = Running::start(worker);
    let ran = logged_within(&log, 1, 2 * PATIENCE).await;
    worker.task.abort();
    assert!(ran, "JOB-good did not run for a minute");
}

/// Guide: "Statements of the queue end after 3 s" and "[Workers] try it again after 15 to 30 s": a change that takes less than the
/// limit succeeds in the end. Each change takes 1.8 s here, and a heartbeat of this worker may take 2.5 s.
async fn slow_rows_that_end_in_time(rows: usize) {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..rows).map(|number| format!("JOB-{number}")).collect();
    orphans(&fixture, &guids).await;
    sleeping_trigger(&fixture.pool, "UPDATE", "NEW.status = 'Pending'", 1.8).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(15));
    let worker = Running::start(worker);
    let ran = logged_within(&log, rows, 5 * PATIENCE).await;
    worker.task.abort();
    assert!(ran, "{:?} of {rows} ran in 150 s", log.entries());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn two_rows_whose_take_over_ends_in_time_are_taken_over() {
    slow_rows_that_end_in_time(2).await;
}

/// Guide: "After 30 s of silence (`with_dead_after`), others take its events over. They look every 7.5 s", and "Workers log an
/// error, go on with the other events, and try it again after 15 to 30 s, and then less and less often". Six rows of a dead worker
/// cannot be changed. Others die meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn six_slow_rows_stop_no_take_over() {
    const DEAD_AFTER: Duration = Duration::from_secs(16);
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..6).map(|number| format!("JOB-bad-{number}")).collect();
    orphans(&fixture, &guids).await;
    fixture.execute("CREATE SEQUENCE tries START 1").await;
    let condition =
        "NEW.status = 'Pending' AND NEW.idempotency_key LIKE 'JOB-bad%' AND nextval('tries') > 0";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(DEAD_AFTER);
    let worker = Running::start(worker);
    let begin = Instant::now();
    let mut times = Vec::new();
    let mut number = 0;
    let mut longest = Duration::ZERO;
    sleep(DEAD_AFTER * 2).await;
    while begin.elapsed() < Duration::from_secs(100) {
        fixture.store(completed(&format!("GOOD-{number}"))).await;
        // A worker may take it before: it is then logged, which is as good.
        fixture
            .execute(&format!(
                "UPDATE apalis.jobs SET status = 'Running', lock_by = 'dead', lock_at = now() - interval '1 hour',
                     max_attempts = 12 WHERE idempotency_key LIKE 'GOOD-{number} %' AND status = 'Pending'"
            ))
            .await;
        let start = Instant::now();
        let ran = logged_within(&log, number + 1, 3 * PATIENCE).await;
        assert!(ran);
        longest = longest.max(start.elapsed());
        let tries = fixture.number("SELECT last_value FROM tries").await;
        times.push((
            begin.elapsed().as_secs(),
            start.elapsed().as_millis(),
            tries,
        ));
        number += 1;
    }
    worker.task.abort();
    assert!(longest < DEAD_AFTER, "{longest:?} {times:?}");
}

/// Guide: "Statements of the queue end after 3 s": a change that takes 2 s succeeds, and events whose changes do run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_whose_changes_take_two_seconds_run() {
    let mut times = Vec::new();
    for concurrency in [1, 4] {
        let fixture = Fixture::new().await;
        for number in 0..8 {
            fixture.store(completed(&format!("JOB-{number}"))).await;
        }
        sleeping_trigger(&fixture.pool, "UPDATE", "NEW.status = 'Running'", 2.0).await;
        let log = Log::default();
        let worker = quick(&fixture.queue, logging(&log)).with_concurrency(concurrency);
        let worker = Running::start(worker);
        let start = Instant::now();
        logged_within(&log, 8, 4 * PATIENCE).await;
        worker.task.abort();
        times.push((concurrency, log.entries().len(), start.elapsed().as_secs()));
    }
    assert!(
        times.iter().all(|(_, ran, _)| *ran == 8),
        "(concurrency, ran, seconds): {times:?}"
    );
}

/// Guide: "Workers […] go on with the other events". Sixty places are free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_sixty_that_wait_runs_on_a_worker_with_sixty_places() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for number in 0..60 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(60));
    sleep(Duration::from_secs(5)).await;
    fixture.store(completed("JOB-good")).await;
    let start = Instant::now();
    logged_within(&log, 1, 6 * PATIENCE).await;
    worker.task.abort();
    let after = start.elapsed();
    assert!(after < 2 * PATIENCE, "it ran after {after:?}");
}

/// `prune`: "It deletes up to 2,000 rows at a time", "Call it regularly". A trigger of the application takes 4 ms for a row that
/// is deleted, as one that writes an archive may. Heartbeats and replays go on with fewer rows at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn rows_whose_deletion_takes_a_while_are_pruned() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute(
            "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key, done_at)
             SELECT 'id-' || n, job_type, job, 'Done', 1, 12, now(), 0, 'OLD-' || n || ' COMPLETED -', now() - interval '9 days'
             FROM apalis.jobs, generate_series(1, 2000) AS n;
             CREATE FUNCTION archive() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(0.004); RETURN OLD; END $f$;
             CREATE TRIGGER archive BEFORE DELETE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION archive()",
        )
        .await;
    let mut errors = Vec::new();
    for _ in 0..3 {
        if let Err(error) = fixture.queue.prune(Duration::from_secs(48 * 60 * 60)).await {
            errors.push(error.to_string());
        }
    }
    let left = fixture.rows("status = 'Done'").await;
    assert_eq!(left, 0, "{errors:?}");
}

/// Guide: "Statements of the queue end after 3 s", and "If they refuse to change a stored row, or let the change wait, its event
/// waits. Workers […] go on with the other events". The trigger is deferred to the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_commit_waits_keeps_no_other_one() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-bad")).await;
    fixture.store(completed("JOB-good")).await;
    fixture
        .execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN IF NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%' THEN PERFORM pg_sleep(8); END IF;
                 RETURN NULL; END $f$;
             CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON apalis.jobs DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_tries(3));
    // Deferred constraints are checked within 1.5 s. A commit would take 5 s, after which the worker gives up, and several times.
    let ran = logged_within(&log, 1, Duration::from_secs(10)).await;
    worker.task.abort();
    let dead = fixture
        .rows("status = 'Failed' AND idempotency_key LIKE 'JOB-good%'")
        .await;
    let attempts = fixture
        .number("SELECT max(attempts)::bigint FROM apalis.jobs")
        .await;
    assert!(
        ran,
        "{:?}, dead: {dead}, attempts: {attempts}",
        log.entries()
    );
}

/// Guide: "only that one is answered 503", with a trigger that is deferred to the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_commit_waits_fails_no_other_one() {
    let fixture = Fixture::new().await;
    let queue = fixture.other().with_max_connections(1);
    fixture
        .execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN IF NEW.idempotency_key LIKE 'JOB-7 %' THEN PERFORM pg_sleep(8); END IF;
                 RETURN NULL; END $f$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON apalis.jobs DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .await;
    assert_eq!(refused_of_sixteen(&queue).await, [7]);
}

/// `left_out` is for an event whose row is the cause. Here an index is built for 15 s, which no event is the cause of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_lock_of_the_table_is_blamed_on_no_event() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.other().named("locked");
    let log = Log::default();
    let jobs = slow(&log, Duration::from_secs(2));
    let worker = Running::start(quick(&queue, jobs).with_dead_after(Duration::from_secs(30)));
    for number in 0..4 {
        store(&queue, completed(&format!("JOB-{number}"))).await;
    }
    until_logged(&log, 4).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE apalis.jobs IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    sleep(Duration::from_secs(15)).await;
    lock.rollback().await.unwrap();
    fixture.until(4, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    let blamed = lines.count(&["refuses to change their rows", "\"locked\""]);
    assert_eq!(blamed, 0);
}

/// Guide: "Statements of the queue end after 3 s […]. A `transaction_timeout` does not apply to them", and "The queue has
/// connections of its own, at most four by default and two for bodies that are no event".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_transaction_timeout_does_not_apply_to_bodies_that_are_no_event() {
    let (_folder, server) = server(Version::V18, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let options = server.options().options([("transaction_timeout", "1s")]);
    let (_pool, queue) = super::queue(options);
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), queue.enqueue())
        .on_undecodable(queue.keep_undecodable());
    let mut statuses = Vec::new();
    for table in ["apalis.jobs", "mx_job_webhook_dead_letters"] {
        let mut lock = pool.begin().await.unwrap();
        let sql = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *lock)
            .await
            .unwrap();
        let body = match table {
            "apalis.jobs" => SAMPLE.to_owned(),
            _ => "not JSON".to_owned(),
        };
        let delivered = tokio::spawn(webhooks.clone().oneshot(delivery(body)));
        sleep(Duration::from_millis(2_500)).await;
        lock.rollback().await.unwrap();
        statuses.push(delivered.await.unwrap().unwrap().status().as_u16());
    }
    assert_eq!(statuses, [204, 204]);
}
