//! Searches for the rows that wait, beside which others go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::queue::JobQueue;
use mx_job_webhook::{JobEvent, JobRouter};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::logged::Lines;
use super::refused::{logged_within, orphans};
use super::{
    Fixture, PATIENCE, Running, completed, logging, quick, sleeping_trigger, slow, store,
    until_logged,
};
use crate::support::Log;

/// Guide: "After 30 s of silence (`with_dead_after`), others take its events over. They look every 7.5 s". A hundred events wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_a_hundred_that_cannot_be_taken_over_runs() {
    let fixture = Fixture::new().await;
    let mut guids: Vec<_> = (0..100)
        .map(|number| format!("JOB-bad-{number:03}"))
        .collect();
    guids.push("JOB-good".to_owned());
    orphans(&fixture, &guids).await;
    fixture.execute("VACUUM FULL apalis.jobs").await;
    let condition = "NEW.status = 'Pending' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(8));
    let worker = Running::start(worker);
    let ran = logged_within(&log, 1, Duration::from_secs(90)).await;
    worker.task.abort();
    assert!(ran, "JOB-good did not run for 90 s");
}

/// Guide: "Workers […] go on with the other events". The worker has the default number of places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_sixty_that_wait_runs_on_a_worker_with_four_places() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for number in 0..60 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    fixture.store(completed("JOB-good")).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    let ran = logged_within(&log, 1, Duration::from_secs(90)).await;
    worker.task.abort();
    assert!(ran, "JOB-good did not run for 90 s");
}

/// Guide: "others take its events over", and "Statements of the queue end after 3 s". The change of the row takes 1.5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_change_takes_less_than_a_statement_may_is_taken_over() {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-1".to_owned()]).await;
    sleeping_trigger(&fixture.pool, "UPDATE", "NEW.status = 'Pending'", 1.5).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(6));
    let worker = Running::start(worker);
    let ran = logged_within(&log, 1, Duration::from_secs(90)).await;
    worker.task.abort();
    assert!(ran, "JOB-1 did not run for 90 s");
}

/// Guide: "If the database refuses to record the ends of 64 callbacks, their worker takes no further events." Sixty results wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_with_sixty_results_that_wait_runs_others() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Done' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for number in 0..60 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    let log = Log::default();
    let jobs = slow(&log, Duration::from_millis(500));
    let worker = quick(&fixture.queue, jobs).with_concurrency(60);
    let worker = Running::start(worker.with_dead_after(PATIENCE));
    until_logged(&log, 60).await;
    sleep(Duration::from_secs(8)).await;
    for number in 0..8 {
        store(&fixture.other(), completed(&format!("JOB-good-{number}"))).await;
    }
    until_logged(&log, 68).await;
    sleep(Duration::from_secs(2)).await;
    for number in 8..16 {
        store(&fixture.other(), completed(&format!("JOB-good-{number}"))).await;
    }
    let ran = logged_within(&log, 76, Duration::from_secs(50)).await;
    worker.task.abort();
    assert!(ran, "{} of 8 ran within 50 s", log.entries().len() - 68);
}

/// Guide: "Workers […] go on with the other events". The change of each of the others takes 60 ms. There are sixty places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_take_a_moment_behind_those_that_wait_run() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    fixture
        .execute(
            "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN IF NEW.status = 'Running' THEN PERFORM pg_sleep(0.06); END IF; RETURN NEW; END $f$;
             CREATE TRIGGER audit BEFORE UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION audit()",
        )
        .await;
    for number in 0..60 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    for number in 0..60 {
        fixture
            .store(completed(&format!("JOB-good-{number}")))
            .await;
    }
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_concurrency(60);
    let worker = Running::start(worker);
    let ran = logged_within(&log, 1, Duration::from_secs(70)).await;
    worker.task.abort();
    assert!(ran, "no other event ran for 70 s");
}

async fn until_one_is_tried_by_itself(fixture: &Fixture) {
    let searches = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'
        AND query LIKE '%mx-job-webhook fetch%' AND query LIKE '%statement_timeout = 150;%'";
    let start = Instant::now();
    while fixture.number(searches).await == 0 {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
}

/// Guide: "Workers log an error, go on with the other events". Events that are tried by themselves, because of one that waits, are not left
/// out because the table is locked for a while meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_lock_of_the_table_during_a_search_is_blamed_on_no_event() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    fixture.store(completed("JOB-bad")).await;
    fixture.store(completed("JOB-good")).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(PATIENCE);
    let worker = Running::start(worker);
    until_one_is_tried_by_itself(&fixture).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE apalis.jobs IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    // Each of them would be tried twice by itself.
    sleep(Duration::from_secs(20)).await;
    assert!(log.entries().is_empty());
    lock.rollback().await.unwrap();
    // If it was left out, that was some seconds ago, and for 15 s at least.
    assert!(logged_within(&log, 1, Duration::from_secs(9)).await);
    worker.task.abort();
}

/// Guide: "Workers log an error, go on with the other events". The table is missing for some seconds while events are tried by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_failure_of_all_statements_during_a_search_is_blamed_on_no_event() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.other().named("renamed");
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for guid in ["JOB-bad", "JOB-good"] {
        store(&queue, completed(guid)).await;
    }
    let log = Log::default();
    let worker = quick(&queue, logging(&log)).with_dead_after(PATIENCE);
    let worker = Running::start(worker);
    until_one_is_tried_by_itself(&fixture).await;
    let rename = |from, to| format!("ALTER TABLE apalis.{from} RENAME TO {to}");
    fixture.execute(&rename("jobs", "other")).await;
    sleep(Duration::from_secs(4)).await;
    assert!(log.entries().is_empty());
    fixture.execute(&rename("other", "jobs")).await;
    until_logged(&log, 1).await;
    worker.task.abort();
    let blamed = lines.count(&["refuses to change their rows", "\"renamed\"", "JOB-good"]);
    assert_eq!(blamed, 0);
}

/// Guide: "try it again after 15 to 30 s, and then less and less often, up to every 15 minutes". Six events wait. Each of them has been tried again a minute after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_wait_are_tried_again_after_30_s() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for number in 0..6 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_concurrency(8);
    let worker = Running::start(worker);
    // Two statements of 3 s, and a search of 20 s.
    sleep(Duration::from_secs(25)).await;
    let start = Instant::now();
    let mut tried = HashSet::new();
    while start.elapsed() < Duration::from_secs(90) {
        let queries: Vec<String> = sqlx::query_scalar(
            "SELECT md5(query) FROM pg_stat_activity WHERE datname = current_database()
                 AND query LIKE '%mx-job-webhook fetch%' AND query NOT SIMILAR TO '%statement_timeout = (150|1500);%'
                 AND state = 'active' AND wait_event = 'PgSleep'",
        )
        .fetch_all(&fixture.pool)
        .await
        .unwrap();
        tried.extend(queries);
        sleep(Duration::from_millis(250)).await;
    }
    worker.task.abort();
    assert_eq!(tried.len(), 6, "so many were tried again within 105 s");
}

/// `an_event_behind_twelve_that_wait_runs`, with one place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_twelve_that_wait_runs_on_a_worker_with_one_place() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for number in 0..12 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    fixture.store(completed("JOB-good")).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_concurrency(1);
    let worker = Running::start(worker);
    let ran = logged_within(&log, 1, 2 * PATIENCE).await;
    worker.task.abort();
    assert!(ran, "JOB-good did not run for a minute");
}

/// Guide: "Workers log an error, go on with the other events, and try it again […]. These tries take at most half of a worker's time".
/// One event waits for ever; eight take 1.2 s each, and succeed. The ninth is stored once the first of these has run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn tries_that_succeed_slowly_take_half_of_the_time() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                 IF NEW.idempotency_key LIKE 'JOB-bad %' THEN PERFORM pg_sleep(10); END IF;
                 IF NEW.idempotency_key LIKE 'JOB-slow%' THEN PERFORM pg_sleep(1.2); END IF;
                 RETURN NEW; END $f$;
             CREATE TRIGGER slow BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (NEW.status = 'Running') EXECUTE FUNCTION slow()",
        )
        .await;
    fixture.store(completed("JOB-bad")).await;
    for number in 0..8 {
        fixture
            .store(completed(&format!("JOB-slow-{number}")))
            .await;
    }
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_dead_after(PATIENCE));
    let start = Instant::now();
    while log.entries().is_empty() && start.elapsed() < 3 * PATIENCE {
        sleep(Duration::from_millis(20)).await;
    }
    fixture.store(completed("JOB-fast")).await;
    logged_within(&log, 9, PATIENCE).await;
    worker.task.abort();
    let entries = log.entries();
    let place = entries.iter().position(|entry| entry == "JOB-fast");
    assert!(place.is_some_and(|place| place <= 4), "{entries:?}");
}

/// Guide: "Workers […] go on with the other events […]. These tries take at most half of a worker's time". Twelve events wait, and are due again.
/// Then one more is stored, and behind it one that can be taken at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_good_event_does_not_wait_for_the_further_tries_of_others() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    for number in 0..12 {
        fixture.store(completed(&format!("JOB-bad-{number}"))).await;
    }
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_dead_after(PATIENCE));
    sleep(Duration::from_secs(70)).await;
    fixture.store(completed("JOB-bad-late")).await;
    fixture.store(completed("JOB-good")).await;
    let start = Instant::now();
    let ran = logged_within(&log, 1, Duration::from_secs(60)).await;
    let after = start.elapsed();
    worker.task.abort();
    println!("after {after:?}");
    assert!(
        ran && after < Duration::from_secs(25),
        "it ran after {after:?}: {ran}"
    );
}

/// Guide: "After 30 s of silence (`with_dead_after`), others take its events over." Each change takes 0.1 s, and all together longer than
/// a statement may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn all_events_of_a_dead_worker_run_although_one_statement_cannot_return_them() {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..40).map(|number| format!("JOB-{number}")).collect();
    orphans(&fixture, &guids).await;
    sleeping_trigger(&fixture.pool, "UPDATE", "NEW.status = 'Pending'", 0.1).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(2));
    let worker = Running::start(worker);
    until_logged(&log, 40).await;
    worker.end().await;
}

/// Guide: "Once one of them can be taken, the others are tried at once." Their pauses differ by up to 15 s.
async fn others_follow_the_first_one_that_is_mended(fixture: &Fixture, dead_after: Duration) {
    fixture.refuse_changes("JOB-%").await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_concurrency(8);
    let worker = Running::start(worker.with_dead_after(dead_after));
    sleep(2 * dead_after + Duration::from_secs(2)).await;
    fixture
        .execute("ALTER TABLE apalis.jobs DROP CONSTRAINT refuse")
        .await;
    until_logged(&log, 1).await;
    let start = Instant::now();
    until_logged(&log, 8).await;
    let after = start.elapsed();
    worker.end().await;
    assert!(after < Duration::from_secs(5), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_were_refused_run_at_once_when_one_of_them_can_be_taken() {
    let fixture = Fixture::new().await;
    for number in 0..8 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    others_follow_the_first_one_that_is_mended(&fixture, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_of_a_dead_worker_run_at_once_when_one_of_them_can_be_taken_over() {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..8).map(|number| format!("JOB-{number}")).collect();
    orphans(&fixture, &guids).await;
    others_follow_the_first_one_that_is_mended(&fixture, Duration::from_secs(2)).await;
}

/// Operators that keep the connections of the queue busy: each replay takes 1.5 s, and is refused.
async fn busy(fixture: &Fixture, queue: &JobQueue, operators: usize) -> Vec<JoinHandle<()>> {
    for number in 0..operators {
        store(queue, completed(&format!("DEAD-{number}"))).await;
    }
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Killed', done_at = now() WHERE idempotency_key LIKE 'DEAD%';
             CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(1.5); RAISE 'not now'; END $f$;
             CREATE TRIGGER busy BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (NEW.idempotency_key LIKE 'DEAD%') EXECUTE FUNCTION busy()",
        )
        .await;
    let page = queue.dead_letters(&LetterFilter::new()).await.unwrap();
    let letters = page.letters().iter().map(|letter| letter.name().to_owned());
    let operator = |name: String| {
        let queue = queue.clone();
        tokio::spawn(async move {
            loop {
                let _ = queue.replay(&name).await;
            }
        })
    };
    letters.map(operator).collect()
}

/// Guide: "If they refuse to change a stored row, or let the change wait, its event waits. Workers log an error, go on with the other
/// events". Meanwhile operators replay letters, which takes 1.5 s each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_refused_event_keeps_no_other_one_while_the_connections_are_busy() {
    let fixture = Fixture::new().await;
    let queue = fixture.queue.clone();
    store(&queue, completed("JOB-bad")).await;
    store(&queue, completed("JOB-good")).await;
    fixture.refuse_changes("JOB-bad %").await;
    let busy = busy(&fixture, &queue, 8).await;
    sleep(Duration::from_secs(1)).await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)).with_dead_after(PATIENCE));
    let ran = logged_within(&log, 1, 2 * PATIENCE).await;
    worker.task.abort();
    busy.iter().for_each(JoinHandle::abort);
    assert!(ran, "JOB-good did not run for a minute");
}

/// Guide: "Workers log an error, go on with the other events". A trigger of the statement takes 1.2 s, which is less than a statement
/// may, beside an event that is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_refused_event_keeps_no_other_one_beside_a_slow_trigger_of_the_statement() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.queue.clone().named("slow-statement");
    store(&queue, completed("JOB-bad")).await;
    store(&queue, completed("JOB-good")).await;
    fixture.refuse_changes("JOB-bad %").await;
    fixture
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(1.2); RETURN NULL; END $f$;
             CREATE TRIGGER slow BEFORE UPDATE OF lock_at ON apalis.jobs FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)).with_dead_after(PATIENCE));
    let ran = logged_within(&log, 1, 2 * PATIENCE).await;
    worker.task.abort();
    let blamed = lines.count(&["refuses to change their rows", "slow-statement"]);
    assert!(ran, "JOB-good did not run for a minute; blamed {blamed}");
}

/// "After 30 s of silence, others take its events over." One is refused, and a trigger of the statement takes 1.2 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_refused_event_of_a_dead_worker_keeps_no_other_one_beside_a_slow_trigger_of_the_statement()
 {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-bad".to_owned(), "JOB-good".to_owned()]).await;
    fixture.refuse_changes("JOB-bad %").await;
    fixture
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(1.2); RETURN NULL; END $f$;
             CREATE TRIGGER slow BEFORE UPDATE OF done_at ON apalis.jobs FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    let log = Log::default();
    let worker = Running::start(
        quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(8)),
    );
    let ran = logged_within(&log, 1, 2 * PATIENCE).await;
    worker.task.abort();
    assert!(ran, "JOB-good did not run for a minute");
}

/// Guide: "try it again after 15 to 30 s". Events that were refused are gone when they are tried again, and the cause is mended for another
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_are_gone_keep_no_other_one_from_being_taken_over() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.queue.clone().named("gone");
    let mut guids: Vec<_> = (0..15).map(|number| format!("JOB-gone-{number}")).collect();
    guids.push("JOB-kept".to_owned());
    orphans(&fixture, &guids).await;
    fixture
        .execute(
            "UPDATE apalis.jobs SET job_type = 'gone'; UPDATE apalis.workers SET worker_type = 'gone'",
        )
        .await;
    fixture.refuse_changes("JOB-%").await;
    let log = Log::default();
    let worker = quick(&queue, logging(&log)).with_dead_after(Duration::from_secs(1));
    let worker = Running::start(worker);
    let start = Instant::now();
    while lines.count(&["refuses to change their rows", "\"gone\""]) == 0 {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }
    // All have been tried.
    sleep(Duration::from_secs(2)).await;
    fixture
        .execute(
            "DELETE FROM apalis.jobs WHERE idempotency_key LIKE 'JOB-gone%';
             ALTER TABLE apalis.jobs DROP CONSTRAINT refuse",
        )
        .await;
    assert!(logged_within(&log, 1, 2 * PATIENCE).await);
    assert_eq!(log.entries(), ["JOB-kept"]);
    worker.end().await;
}

/// `with_concurrency`: "Sets how many callbacks run at once". Events that were refused can be taken again, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_were_refused_run_one_after_the_other_on_a_worker_with_one_place() {
    let fixture = Fixture::new().await;
    for number in 0..4 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture.refuse_changes("JOB-%").await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let log = Log::default();
    let jobs = {
        let (log, running, most) = (log.clone(), running.clone(), most.clone());
        JobRouter::new().on_completed(move |event: JobEvent| {
            let (log, running, most) = (log.clone(), running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(500)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                log.push(event.guid.to_string());
            }
        })
    };
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(1));
    sleep(Duration::from_secs(3)).await;
    fixture
        .execute("ALTER TABLE apalis.jobs DROP CONSTRAINT refuse")
        .await;
    assert!(logged_within(&log, 4, 2 * PATIENCE).await);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    worker.end().await;
}
