//! Which events a worker takes, when, and how many at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::{JobEvent, JobRouter};
use tokio::time::{Instant, sleep};
use tower::BoxError;

use super::logged::Lines;
use super::{
    Fixture, KILLED, PATIENCE, Running, completed, logging, quick, sleeping_trigger, slow, store,
    until_logged,
};
use crate::postgres_wire::counted;
use crate::proxy::{Network, Proxy};
use crate::support::Log;

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_run_in_the_order_in_which_they_were_stored() {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..30).map(|number| format!("JOB-{number}")).collect();
    for guid in &guids {
        fixture.store(completed(guid)).await;
    }
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(1));
    until_logged(&log, 30).await;
    worker.end().await;
    assert_eq!(log.entries(), guids);
}

/// "Events start in the order in which they were stored": also those of one fetch.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_of_one_fetch_start_in_order() {
    let fixture = Fixture::new().await;
    let mut expected = Vec::new();
    for number in 0..60 {
        let guid = format!("JOB-{number:03}");
        fixture.store(completed(&guid)).await;
        expected.push(guid);
    }
    // A replay in another order than that of the table.
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Killed', last_result = '{\"Err\": \"no\"}',
                 done_at = now() - interval '1 minute' * substr(idempotency_key, 5, 3)::int",
        )
        .await;
    fixture.execute("VACUUM ANALYZE apalis.jobs").await;
    fixture
        .queue
        .replay_all(&LetterFilter::new())
        .await
        .unwrap();
    fixture.execute("VACUUM ANALYZE apalis.jobs").await;
    expected.reverse();
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(64));
    until_logged(&log, 60).await;
    worker.end().await;
    assert_eq!(log.entries(), expected);
}

/// `with_poll_interval`: "Sets how often an idle worker looks for events." It does not look all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_idle_worker_looks_for_events_at_its_interval() {
    let fixture = Fixture::new().await;
    let worker = Running::start(quick(&fixture.queue, JobRouter::new()));
    sleep(Duration::from_secs(4)).await;
    worker.end().await;
    sleep(Duration::from_secs(2)).await;
    let transactions =
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let transactions = fixture.number(transactions).await;
    // At least one each 50 ms, and heartbeats.
    assert!(transactions < 300, "{transactions}");
}

/// "Events that were stored by the same process wake its workers at once", also if the server's answer to the commit is
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_wakes_workers_although_the_answer_was_lost() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    fixture
        .execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $f$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON apalis.jobs DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .await;
    let log = Log::default();
    let worker = queue
        .worker(logging(&log))
        .with_poll_interval(Duration::from_secs(3600));
    let worker = Running::start(worker);
    sleep(Duration::from_millis(500)).await;
    let storing = tokio::spawn({
        let queue = queue.clone();
        async move { store(&queue, completed("JOB-1")).await }
    });
    sleep(Duration::from_millis(250)).await;
    proxy.set(Network::LosesOneAnswer);
    storing.await.unwrap();
    let start = Instant::now();
    while log.entries().is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "no worker was woken"
        );
        sleep(Duration::from_millis(10)).await;
    }
    worker.end().await;
}

/// `replay`: "A worker runs the event as soon as it can", also if one worker cannot take all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_are_replayed_together_wake_all_workers() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let jobs = slow(&log, Duration::from_secs(8));
            let worker = quick(&fixture.queue, jobs)
                .with_concurrency(1)
                .with_poll_interval(Duration::from_secs(3600));
            Running::start(worker)
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    for number in 0..3 {
        store(&fixture.other(), completed(&format!("JOB-{number}"))).await;
    }
    fixture.execute(KILLED).await;
    let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
    assert_eq!(replayed.unwrap().succeeded(), 3);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(log.entries().len(), 3);
    for worker in workers {
        worker.end().await;
    }
}

/// A worker that has taken all it asked for looks again at once: more may wait.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn many_events_that_wait_are_taken_without_pauses() {
    let fixture = Fixture::new().await;
    for number in 0..200 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let log = Log::default();
    // Of another process, which does not know that events were stored.
    let worker = quick(&fixture.other(), logging(&log)).with_poll_interval(PATIENCE * 10);
    let worker = Running::start(worker.with_concurrency(1_000));
    until_logged(&log, 200).await;
    worker.end().await;

    // The bodies of one statement are 1 MiB at most, which the first one has.
    for number in 200..202 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture
        .execute(
            "UPDATE apalis.jobs SET job = job || convert_to(repeat(' ', 1048576 - length(job)), 'UTF8')
             WHERE status = 'Pending' AND position('JOB-200' IN convert_from(job, 'UTF8')) > 0",
        )
        .await;
    let worker = quick(&fixture.other(), logging(&log)).with_poll_interval(PATIENCE * 10);
    let worker = Running::start(worker);
    until_logged(&log, 202).await;
    worker.end().await;
}

/// Bodies of 2 MiB, many at once. If the answer to a fetch took longer than five seconds, a try of each of its events would be
/// lost, and after the third they would be dead letters whose callbacks have not run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn many_events_with_large_bodies_run() {
    let fixture = Fixture::new().await;
    for number in 0..16 {
        let padding = "x".repeat(2 << 20);
        let body = format!(
            r#"{{"job": {{"guid": "JOB-{number}", "status_name": "COMPLETED"}}, "more": "{padding}"}}"#
        );
        fixture.store(JobEvent::decode(body).unwrap()).await;
    }
    let log = Log::default();
    let worker = Running::start(
        quick(&fixture.queue, logging(&log))
            .with_concurrency(64)
            .with_dead_after(PATIENCE),
    );
    let start = Instant::now();
    while log.entries().len() < 16 {
        assert!(
            start.elapsed() < PATIENCE * 2,
            "{} ran",
            log.entries().len()
        );
        sleep(Duration::from_millis(50)).await;
    }
    worker.end().await;
    assert_eq!(fixture.rows("status = 'Done' AND attempts = 1").await, 16);
}

/// "Sets how many callbacks run at once": a worker that runs as many looks for no events, although more wait.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_callbacks_use_all_places_is_idle() {
    let fixture = Fixture::new().await;
    for number in 0..2 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let log = Log::default();
    let jobs = slow(&log, PATIENCE);
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(1));
    until_logged(&log, 1).await;
    // The server counts the transactions of a session after at most a second.
    sleep(Duration::from_secs(1)).await;
    let transactions =
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let before = fixture.number(transactions).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let busy_before = metrics.worker_total_busy_duration(0);
    sleep(Duration::from_secs(2)).await;
    let busy = metrics.worker_total_busy_duration(0) - busy_before;
    let transactions = fixture.number(transactions).await - before;
    worker.task.abort();
    // Heartbeats, and the statements of this test.
    assert!(transactions < 50, "{transactions} transactions");
    assert!(busy < Duration::from_secs(1), "busy for {busy:?}");
}

/// Results that cannot be recorded stop the worker from taking more and more events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn results_that_cannot_be_recorded_are_bounded() {
    let fixture = Fixture::new().await;
    for number in 0..200 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN IF NEW.status = 'Done' THEN RAISE 'refused'; END IF; RETURN NEW; END $f$;
             CREATE TRIGGER refuse BEFORE UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    until_logged(&log, 64).await;
    sleep(Duration::from_secs(3)).await;
    let runs = log.entries().len();
    fixture.execute("DROP TRIGGER refuse ON apalis.jobs").await;
    fixture.until(200, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    assert!(runs <= 68, "{runs} callbacks");
    assert_eq!(log.entries().len(), 200);
}

/// Guide: "If they refuse to change a stored row […], its event waits". Those behind it run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_cannot_be_taken_keep_no_other_one() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.queue.clone().named("refused");
    // More than one statement takes.
    for number in 0..70 {
        store(&queue, completed(&format!("JOB-held-{number}"))).await;
    }
    store(&queue, completed("JOB-1")).await;
    fixture.refuse_changes("JOB-held-%").await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    until_logged(&log, 1).await;
    store(&queue, completed("JOB-2")).await;
    until_logged(&log, 2).await;
    worker.end().await;
    assert_eq!(log.entries(), ["JOB-1", "JOB-2"]);
    let refused = [
        "ERROR",
        "queue=\"refused\"",
        "refuses to change their rows",
        "JOB-held-",
        "violates the constraint",
    ];
    assert!(lines.count(&refused) < 40, "a worker repeats itself");
    assert!(lines.has(&refused), "{}", lines.text());
    // Another worker starts after the mend.
    fixture
        .execute("ALTER TABLE apalis.jobs DROP CONSTRAINT refuse")
        .await;
    let worker = Running::start(quick(&queue, logging(&log)));
    fixture.until(72, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
}

/// A worker takes events whatever its settings are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn extreme_settings_stop_no_worker() {
    let fixture = Fixture::new().await;
    for (number, time) in [Duration::ZERO, Duration::MAX].into_iter().enumerate() {
        for tries in [1, u32::MAX] {
            for concurrency in [1, usize::MAX] {
                let guid = format!("JOB-{number}-{tries}-{concurrency}");
                let queue = fixture.queue.clone().named(&guid);
                let log = Log::default();
                store(&queue, completed(&guid)).await;
                let noted = log.clone();
                let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
                    let log = noted.clone();
                    async move {
                        log.push(event.guid.to_string());
                        Err::<(), BoxError>("no".into())
                    }
                });
                let worker = Running::start(
                    queue
                        .worker(jobs)
                        .with_poll_interval(time)
                        .with_backoff(Duration::from_secs(600), time)
                        .with_dead_after(time.max(Duration::from_secs(1)))
                        .with_tries(tries)
                        .with_concurrency(concurrency),
                );
                until_logged(&log, 1).await;
                sleep(Duration::from_millis(200)).await;
                store(&queue, completed("JOB-next")).await;
                let start = Instant::now();
                while !log.entries().contains(&"JOB-next".to_owned()) {
                    assert!(start.elapsed() < Duration::from_secs(5), "{guid}");
                    sleep(Duration::from_millis(5)).await;
                }
                worker.end().await;
                let failed = format!("status = 'Failed' AND job_type = '{guid}'");
                assert_eq!(fixture.rows(&failed).await, 2, "{guid}");
            }
        }
        assert_eq!(fixture.queue.prune(time).await.unwrap(), 0);
    }
}

/// A worker that cannot look for events tries again after a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_statements_fail_does_not_repeat_them_all_the_time() {
    let fixture = Fixture::new().await;
    let (options, round_trips) = counted().await;
    let (_pool, queue) = super::queue(options.database(&fixture.database.name));
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    fixture
        .execute("ALTER TABLE apalis.jobs RENAME TO hidden")
        .await;
    // The heartbeats fail too.
    sleep(Duration::from_secs(1)).await;
    round_trips.store(0, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    let during = round_trips.load(Ordering::SeqCst);
    fixture
        .execute("ALTER TABLE apalis.hidden RENAME TO jobs")
        .await;
    fixture.store(completed("JOB-2")).await;
    until_logged(&log, 2).await;
    worker.end().await;
    // The worker looks for events, reports and counts, each after a pause of 250 ms or more, and with up to two statements.
    assert!((2..=45).contains(&during), "{during} round trips");
}

/// A worker whose fetches are slow takes no event twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_while_events_are_fetched_runs_or_leaves_them() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    sleeping_trigger(&fixture.pool, "UPDATE", "NEW.status = 'Running'", 1.0).await;
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    sleep(Duration::from_millis(600)).await;
    worker.end().await;
    assert_eq!(log.entries(), ["JOB-1"]);
    assert_eq!(fixture.rows("status = 'Done'").await, 1);
}

/// "The settings that `after_connect` makes change nothing": with another encoding, a name could not be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_run_whatever_encoding_the_application_sets() {
    let fixture = Fixture::new().await;
    for guid in ["JOB-1", "JOB-é", "JOB-2"] {
        fixture.store(completed(guid)).await;
    }
    let pool = sqlx::postgres::PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("SET client_encoding = 'LATIN1'")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .connect_lazy_with(fixture.database.options());
    let queue = mx_job_webhook::queue::JobQueue::postgres(pool);
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)).with_tries(1));
    until_logged(&log, 3).await;
    worker.end().await;
}

/// Each event is taken by one worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn workers_that_take_events_at_the_same_time_take_different_ones() {
    let fixture = Fixture::new().await;
    let mut guids: Vec<_> = (0..400).map(|number| format!("JOB-{number:03}")).collect();
    for guid in &guids {
        fixture.store(completed(guid)).await;
    }
    // Their statements are under way at the same time.
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-__0 %'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 0.02).await;
    let log = Log::default();
    let workers: Vec<_> = (0..4)
        .map(|_| Running::start(quick(&fixture.other(), logging(&log)).with_concurrency(8)))
        .collect();
    fixture.until(400, "status = 'Done' AND attempts = 1").await;
    for worker in workers {
        worker.end().await;
    }
    let mut ran = log.entries();
    ran.sort();
    guids.sort();
    assert_eq!(ran, guids);
}

/// Guide: "A row that another transaction has locked delays no other event". A statement of the queue ends after 3 s.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_a_locked_one_runs_at_once() {
    let fixture = Fixture::new().await;
    for guid in ["JOB-1", "JOB-2"] {
        fixture.store(completed(guid)).await;
    }
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM apalis.jobs WHERE idempotency_key LIKE 'JOB-1 %' FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let log = Log::default();
    let start = Instant::now();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    until_logged(&log, 1).await;
    let ran = start.elapsed();
    lock.rollback().await.unwrap();
    until_logged(&log, 2).await;
    worker.end().await;
    assert_eq!(log.entries(), ["JOB-2", "JOB-1"]);
    assert!(ran < Duration::from_millis(2_500), "{ran:?}");
}
