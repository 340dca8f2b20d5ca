//! Workers that die, freeze, or lose the database.

use std::sync::Arc;
use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::queue::Try;
use mx_job_webhook::{JobEvent, JobRouter, Permanent};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::BoxError;

use super::logged::{Lines, PANICS};
use super::refused::orphans;
use super::{
    DEAD_AFTER, Fixture, KILLED, PATIENCE, Running, completed, logging, quick, sleeping_trigger,
    slow, store, tracked, until_logged,
};
use crate::proxy::{Network, Proxy};
use crate::support::{Log, notified};

/// A worker on a runtime of its own, which can be stopped at any moment, as a process can.
struct Process(Option<Runtime>);

impl Process {
    fn start(fixture: &Fixture, jobs: JobRouter) -> Self {
        let runtime = Runtime::new().unwrap();
        let options = fixture.database.options();
        runtime.spawn(async move {
            let (_, queue) = super::queue(options);
            quick(&queue, jobs)
                .run_until(std::future::pending::<()>())
                .await
        });
        Self(Some(runtime))
    }

    fn kill(mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_of_a_dead_worker_are_taken_over_and_its_try_counts() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    for number in 0..6 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let process = Process::start(&fixture, tracked(&log, PATIENCE));
    until_logged(&log, 4).await;
    let other = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&other)));
    until_logged(&other, 2).await;
    process.kill();
    let killed = Instant::now();
    until_logged(&other, 6).await;
    let after = killed.elapsed();
    assert!(after > DEAD_AFTER / 2, "{after:?}");
    assert!(after < DEAD_AFTER * 3, "{after:?}");
    fixture.until(6, "status = 'Done'").await;
    worker.end().await;
    assert_eq!(fixture.rows("attempts = 2").await, 4);
    assert_eq!(log.entries().len(), 4);
}

/// An event that kills its process is not tried for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_workers_die_becomes_a_dead_letter() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    let other = Running::start(quick(&fixture.queue, logging(&Log::default())).with_concurrency(1));
    other.end().await;
    // The last of its three tries.
    fixture
        .execute(
            "UPDATE apalis.workers SET last_seen = now() - interval '1 hour';
             UPDATE apalis.jobs SET status = 'Running', attempts = 2, max_attempts = 3, lock_at = now(), done_at = NULL,
                 lock_by = (SELECT id FROM apalis.workers)",
        )
        .await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    fixture.until(1, "status = 'Failed' AND attempts = 3").await;
    sleep(Duration::from_millis(500)).await;
    worker.end().await;
    assert!(log.entries().is_empty());
    assert_eq!(fixture.queue.counts().await.unwrap().dead, 1);
}

/// A worker that was cut off, and whose event another has taken over, neither ends the other's try nor undoes its
/// result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_was_cut_off_does_no_harm_when_it_returns() {
    let fixture = Fixture::new().await;
    fixture.execute("CREATE TABLE effects (try int)").await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, cut_off) = super::queue(fixture.database.options().port(proxy.address.port()));
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let jobs = |queue: &mx_job_webhook::queue::JobQueue, wait: bool| {
        let (pool, queue) = (fixture.pool.clone(), queue.clone());
        let (started, go_on) = (started.clone(), go_on.clone());
        JobRouter::new().on_completed(move |event: JobEvent| {
            let (pool, queue) = (pool.clone(), queue.clone());
            let (started, go_on) = (started.clone(), go_on.clone());
            async move {
                if wait {
                    started.notify_one();
                    go_on.notified().await;
                }
                let mut transaction = pool.begin().await?;
                let number = Try::of(&event).unwrap().number();
                sqlx::query("INSERT INTO effects VALUES ($1)")
                    .bind(i32::try_from(number)?)
                    .execute(&mut *transaction)
                    .await?;
                queue.commit_in(&mut transaction, &event).await?;
                transaction.commit().await?;
                Ok::<(), BoxError>(())
            }
        })
    };
    let first = Running::start(quick(&cut_off, jobs(&cut_off, true)));
    fixture.store(completed("JOB-1")).await;
    notified(&started).await;
    proxy.set(Network::Down);
    let second = Running::start(quick(&fixture.queue, jobs(&fixture.queue, false)));
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    go_on.notify_one();
    sleep(Duration::from_millis(300)).await;
    proxy.set(Network::Works);
    sleep(DEAD_AFTER).await;
    assert_eq!(fixture.rows("status = 'Done' AND attempts = 2").await, 1);
    let effects: Vec<i32> = sqlx::query_scalar("SELECT try FROM effects")
        .fetch_all(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(effects, [2]);
    // It works again.
    second.end().await;
    fixture.store(completed("JOB-2")).await;
    notified(&started).await;
    go_on.notify_one();
    fixture.until(2, "status = 'Done'").await;
    first.end().await;
}

/// The row of a worker that was frozen for long may be deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_row_is_deleted_continues() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    fixture.store(completed("JOB-1")).await;
    fixture.until(1, "status = 'Done'").await;
    fixture.execute("DELETE FROM apalis.workers").await;
    fixture.store(completed("JOB-2")).await;
    fixture.until(2, "status = 'Done'").await;
    worker.end().await;
}

/// If the answer to a fetch is lost, its events are not stuck for as long as the worker lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_their_worker_does_not_know_of_return_to_the_queue() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    let start = Instant::now();
    while fixture.number("SELECT count(*) FROM apalis.workers").await == 0 {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    let other = fixture.queue.clone().named("other");
    super::store(&other, completed("JOB-1")).await;
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Running', lock_at = now(), max_attempts = 5, job_type = 'mx-jobs',
                 lock_by = (SELECT id FROM apalis.workers)",
        )
        .await;
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    assert_eq!(log.entries(), ["JOB-1"]);
    worker.end().await;
}

/// If a failover undoes the transaction of a callback, its event runs again. So it does if the transaction was never
/// committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_transaction_is_undone_runs_again() {
    let fixture = Fixture::new().await;
    let (pool, queue, log) = (fixture.pool.clone(), fixture.queue.clone(), Log::default());
    let noted = log.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue, log) = (pool.clone(), queue.clone(), noted.clone());
        async move {
            let number = Try::of(&event).unwrap().number();
            log.push(number.to_string());
            let mut transaction = pool.begin().await?;
            queue.commit_in(&mut transaction, &event).await?;
            if number > 1 {
                transaction.commit().await?;
            }
            Ok::<(), BoxError>(())
        }
    });
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, jobs));
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    worker.end().await;
    assert_eq!(log.entries(), ["1", "2"]);
}

/// "Its effect stands exactly once if […] the callback commits with `commit_in`": also if a trigger of the application keeps the row as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_effect_whose_event_a_trigger_does_not_let_end_is_not_committed() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE TABLE effects (guid text);
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN OLD; END $f$;
             CREATE TRIGGER keep BEFORE UPDATE ON apalis.jobs FOR EACH ROW WHEN (NEW.status = 'Done') EXECUTE FUNCTION keep()",
        )
        .await;
    let (pool, queue) = (fixture.pool.clone(), fixture.queue.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue) = (pool.clone(), queue.clone());
        async move {
            let mut transaction = pool.begin().await?;
            sqlx::query("INSERT INTO effects VALUES ('JOB-1')")
                .execute(&mut *transaction)
                .await?;
            queue.commit_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            Ok::<(), BoxError>(())
        }
    });
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(2));
    fixture.until(1, "status = 'Failed' AND attempts = 2").await;
    assert_eq!(fixture.number("SELECT count(*) FROM effects").await, 0);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_takes_no_further_event_and_waits_for_callbacks() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    for number in 0..3 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let time = Duration::from_millis(800);
    let worker = Running::start(quick(&fixture.queue, tracked(&log, time)).with_concurrency(2));
    until_logged(&log, 2).await;
    worker.end().await;
    assert_eq!(log.entries().len(), 4);
    assert_eq!(fixture.rows("status = 'Done'").await, 2);
    assert_eq!(fixture.rows("status = 'Pending' AND attempts = 0").await, 1);
}

/// If its future is dropped, callbacks that have started finish, and their results are recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn callbacks_of_a_worker_that_is_dropped_finish() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    fixture.store(completed("JOB-1")).await;
    let worker = quick(&fixture.queue, tracked(&log, DEAD_AFTER * 2));
    let other =
        Running::start(quick(&fixture.other(), tracked(&log, Duration::ZERO)).with_concurrency(1));
    other.end().await;
    let ended = timeout(
        Duration::from_millis(700),
        worker.run_until(std::future::pending::<()>()),
    )
    .await;
    assert!(ended.is_err());
    until_logged(&log, 1).await;
    // Another worker does not take it over, because heartbeats continue.
    let other = Running::start(quick(&fixture.other(), tracked(&log, Duration::ZERO)));
    fixture.until(1, "status = 'Done' AND attempts = 1").await;
    other.end().await;
    assert_eq!(log.entries(), ["started JOB-1", "ended JOB-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_starts_before_its_database_and_ends_without_it() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    proxy.set(Network::Down);
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    let log = Log::default();
    let early = Running::start(quick(&queue, logging(&log)));
    let never = Running::start(quick(&queue, logging(&log)));
    fixture.store(completed("JOB-1")).await;
    sleep(Duration::from_millis(300)).await;
    never.end().await;
    proxy.set(Network::Works);
    until_logged(&log, 1).await;
    fixture.until(1, "status = 'Done'").await;
    proxy.set(Network::Down);
    sleep(Duration::from_millis(300)).await;
    early.end().await;
}

/// "A callback runs at least once, whichever process dies." A process dies while its worker takes an event. The event
/// becomes a dead letter of one try, and no callback has seen it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_process_dies_while_it_is_taken_runs_at_least_once() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    sleeping_trigger(&fixture.pool, "UPDATE", "NEW.status = 'Running'", 1.0).await;
    let log = Log::default();
    let process = tokio::runtime::Runtime::new().unwrap();
    let (options, jobs) = (fixture.database.options(), logging(&log));
    process.spawn(async move {
        let (_, queue) = super::queue(options);
        let worker = quick(&queue, jobs).with_tries(1);
        worker.run_until(std::future::pending::<()>()).await
    });
    sleep(Duration::from_millis(500)).await;
    process.shutdown_background();
    sleep(Duration::from_secs(1)).await;
    fixture.execute("DROP TRIGGER slow ON apalis.jobs").await;
    let worker = Running::start(quick(&fixture.other(), logging(&log)).with_tries(1));
    fixture.until(1, "status IN ('Done', 'Failed')").await;
    worker.end().await;
    let dead = fixture.letters().await;
    assert_eq!(log.entries(), ["JOB-1"], "{:?}", dead.letters());
}

/// A worker has taken its own event again, because the server or a failover has undone something. The earlier try does not
/// end the later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_earlier_try_of_the_same_worker_ends_no_later_one() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, slow(&log, Duration::from_secs(1))));
    until_logged(&log, 1).await;
    fixture.execute("UPDATE apalis.jobs SET attempts = 1").await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fixture.rows("status = 'Running' AND attempts = 1").await, 1);
    // The later try is unknown to the worker, and is run again.
    fixture.until(1, "status = 'Done' AND attempts = 3").await;
    worker.end().await;
}

/// Also if both have the same number, because the earlier one does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_earlier_try_ends_no_later_one_with_its_number() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, slow(&log, Duration::from_secs(1))));
    until_logged(&log, 1).await;
    fixture
        .execute("UPDATE apalis.jobs SET lock_at = lock_at + interval '1 microsecond'")
        .await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fixture.rows("status = 'Running' AND attempts = 0").await, 1);
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    worker.end().await;
}

/// Also if one statement records both: the earlier one makes no second dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn two_tries_that_are_recorded_together_make_one_dead_letter() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let (log, end) = (Log::default(), Arc::new(Notify::new()));
    let (noted, ends) = (log.clone(), end.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, end) = (noted.clone(), ends.clone());
        async move {
            let notified = end.notified();
            log.push(event.guid.to_string());
            if event.guid.as_str() == "JOB-2" {
                return Ok(());
            }
            notified.await;
            Err(Permanent::new("no such account"))
        }
    });
    fixture.store(completed("JOB-twice")).await;
    let worker = Running::start(quick(&fixture.queue, jobs));
    until_logged(&log, 1).await;
    // Another worker has taken it over, and its try has failed.
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Failed', attempts = 2, lock_by = NULL, run_at = now()",
        )
        .await;
    until_logged(&log, 2).await;
    // The statement that records JOB-2 runs when both tries end, and the next one records both.
    let is_recorded = "NEW.status = 'Done'";
    sleeping_trigger(&fixture.pool, "UPDATE", is_recorded, 1.0).await;
    fixture.store(completed("JOB-2")).await;
    until_logged(&log, 3).await;
    sleep(Duration::from_millis(300)).await;
    end.notify_waiters();
    fixture.until(1, "status = 'Killed'").await;
    worker.end().await;
    assert_eq!(lines.count(&["is a dead letter", "JOB-twice"]), 1);
}

/// "After the shutdown, it waits for the database as long as for a silent worker", also if it was away before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_in_an_outage_waits_for_the_database() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    fixture.store(completed("JOB-1")).await;
    let log = Log::default();
    let jobs = slow(&log, Duration::from_millis(300));
    let worker = Running::start(quick(&queue, jobs).with_dead_after(Duration::from_secs(1)));
    until_logged(&log, 1).await;
    proxy.set(Network::Down);
    sleep(Duration::from_secs(2)).await;
    worker.shut_down();
    sleep(Duration::from_millis(200)).await;
    proxy.set(Network::Works);
    worker.end().await;
    assert_eq!(fixture.rows("status = 'Done' AND attempts = 1").await, 1);
}

/// "Nothing stuck": a worker of which a part has panicked ends, so that the application can start another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_part_panics_ends_with_an_error() {
    let fixture = Fixture::new().await;
    Lines::of_all_tests();
    let queue = fixture.queue.clone().named(PANICS);
    store(&queue, completed("JOB-1")).await;
    fixture
        .execute(
            "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
                 SELECT 'dead', job_type, '', '', now() - interval '1 hour', now() FROM apalis.jobs;
             UPDATE apalis.jobs SET status = 'Running', lock_by = 'dead', lock_at = now()",
        )
        .await;
    // The heartbeat that takes the event over logs it, and the subscriber panics.
    let worker = quick(&queue, JobRouter::new()).run_until(std::future::pending::<()>());
    let ended = timeout(PATIENCE, worker).await.unwrap();
    assert!(
        matches!(ended, Err(sqlx::Error::WorkerCrashed)),
        "{ended:?}"
    );
}

/// A worker takes the event, for this many tries, and dies. Afterwards the event waits.
async fn die_of(fixture: &Fixture, tries: u32) {
    fixture
        .execute(&format!(
            "UPDATE apalis.workers SET last_seen = now() - interval '1 hour', worker_type = 'mx-jobs'
             WHERE id LIKE 'other%';
             UPDATE apalis.jobs SET status = 'Running', max_attempts = {tries}, lock_at = now(),
                 run_at = now() + interval '1 hour',
                 lock_by = (SELECT id FROM apalis.workers WHERE id LIKE 'other%')"
        ))
        .await;
}

/// `replay`: "with as many tries as a new event", of which three workers may die.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replayed_event_survives_as_many_deaths_as_a_new_one() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET attempts = 5, max_attempts = 5")
        .await;
    fixture.execute(KILLED).await;
    let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
    assert_eq!(replayed.unwrap().succeeded(), 1);
    let other = Running::start(quick(&fixture.other().named("other"), JobRouter::new()));
    other.end().await;
    let worker = Running::start(quick(&fixture.queue, JobRouter::new()));
    for (attempts, status) in [(6, "Pending"), (7, "Pending"), (8, "Failed")] {
        die_of(&fixture, 6).await;
        let counts = format!("status = '{status}' AND attempts = {attempts}");
        fixture.until(1, &counts).await;
    }
    worker.end().await;
}

/// The last error of the callback is in the letter, however many workers died after it.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_outlives_the_deaths_of_workers() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute(r#"UPDATE apalis.jobs SET attempts = 1, last_result = '{"Err": "the bank did not answer"}'"#)
        .await;
    let other = Running::start(quick(&fixture.other().named("other"), JobRouter::new()));
    other.end().await;
    let worker = Running::start(quick(&fixture.queue, JobRouter::new()));
    for attempts in 2..5 {
        die_of(&fixture, attempts + 10).await;
        fixture
            .until(1, &format!("status = 'Pending' AND attempts = {attempts}"))
            .await;
    }
    let says = "last_result ->> 'Err' LIKE 'the worker stopped%; the error before: the bank did not answer'";
    assert_eq!(fixture.rows(says).await, 1);
    worker.end().await;
}

/// `heartbeat`: "One heartbeat returns some thousands at most, so that the statement ends in time." A trigger of the
/// application takes a millisecond for each row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn many_events_are_taken_over_although_a_trigger_takes_a_millisecond() {
    let mut ran = Vec::new();
    for events in [1_000, 6_000] {
        let fixture = Fixture::new().await;
        fixture
            .execute(&format!(
                "INSERT INTO apalis.workers (id, worker_type, storage_name, last_seen)
                     VALUES ('dead', 'mx-jobs', '', now() - interval '1 hour');
                 INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key, lock_by, lock_at)
                     SELECT 'id' || n, 'mx-jobs', convert_to('{{\"job\": {{\"guid\": \"JOB-' || n || '\", \"status\": 6}}}}', 'UTF8'),
                         'Running', 0, 12, now(), 0, 'JOB-' || n || ' COMPLETED -', 'dead', now() - interval '1 hour'
                     FROM generate_series(1, {events}) AS n"
            ))
            .await;
        sleeping_trigger(&fixture.pool, "UPDATE", "true", 0.001).await;
        let log = Log::default();
        let worker = Running::start(quick(&fixture.queue, logging(&log)));
        let start = Instant::now();
        while log.entries().is_empty() && start.elapsed() < DEAD_AFTER * 20 {
            sleep(Duration::from_millis(100)).await;
        }
        ran.push(!log.entries().is_empty());
        worker.task.abort();
    }
    assert_eq!(ran, [true, true]);
}

/// `run_until`: "After the shutdown, it waits for the database as long as for a silent worker."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_waits_for_the_database_no_longer_than_for_a_silent_worker() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE SEQUENCE failures;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                 IF NEW.idempotency_key LIKE 'JOB-7 %' THEN
                     PERFORM nextval('failures');
                     RAISE 'no';
                 END IF;
                 PERFORM pg_sleep(0.05);
                 RETURN NEW;
             END $f$;
             CREATE TRIGGER refuse BEFORE UPDATE ON apalis.jobs FOR EACH ROW WHEN (NEW.status = 'Done')
                 EXECUTE FUNCTION refuse()",
        )
        .await;
    for number in 0..32 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let (log, go_on) = (Log::default(), Arc::new(Notify::new()));
    let (noted, waits) = (log.clone(), go_on.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, go_on) = (noted.clone(), waits.clone());
        async move {
            let notified = go_on.notified();
            log.push(event.guid.to_string());
            notified.await;
        }
    });
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(32));
    until_logged(&log, 32).await;
    go_on.notify_waiters();
    while fixture
        .number("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM failures")
        .await
        == 0
    {
        sleep(Duration::from_millis(2)).await;
    }
    // The results are recorded one by one. A migration locks the table.
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let start = Instant::now();
    worker.shut_down();
    let ended = timeout(Duration::from_secs(60), worker.task).await;
    assert!(ended.is_ok());
    lock.rollback().await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

/// `commit_in`: "An error that is overtaken, if another worker has taken the event over […], or if the event is done." Here the
/// same worker has a later try of it.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn commit_in_of_an_earlier_try_is_overtaken_by_a_later_one_of_the_same_worker() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let (pool, queue, noted) = (fixture.pool.clone(), fixture.queue.clone(), log.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue, log) = (pool.clone(), queue.clone(), noted.clone());
        async move {
            sqlx::query("UPDATE apalis.jobs SET attempts = 1")
                .execute(&pool)
                .await?;
            let mut transaction = pool.begin().await?;
            let committed = queue.commit_in(&mut transaction, &event).await;
            log.push(match committed {
                Ok(()) => "committed",
                Err(error) if error.is_overtaken() => "overtaken",
                Err(_) => "failed",
            });
            Ok::<_, BoxError>(())
        }
    });
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, jobs));
    until_logged(&log, 1).await;
    worker.task.abort();
    assert_eq!(log.entries()[0], "overtaken");
}

/// Guide: "After 30 s of silence (`with_dead_after`), others take its events over." A worker of another queue has a shorter silence.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_takes_over_events_of_its_own_queue_alone() {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-1".to_owned()]).await;
    let other = fixture.queue.clone().named("other");
    let worker = Running::start(quick(&other, logging(&Log::default())));
    sleep(2 * DEAD_AFTER).await;
    worker.end().await;
    assert_eq!(
        fixture
            .rows("status = 'Running' AND lock_by = 'dead'")
            .await,
        1
    );
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    until_logged(&log, 1).await;
    worker.end().await;
}

/// A worker that shuts down lives until its callbacks have ended, and no other one takes its events over.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_waits_for_its_callbacks_does_not_count_as_dead() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, tracked(&log, 4 * DEAD_AFTER)));
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    worker.shut_down();
    let other = Running::start(quick(&fixture.other(), tracked(&log, Duration::ZERO)));
    fixture.until(1, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    other.end().await;
    assert_eq!(log.entries(), ["started JOB-1", "ended JOB-1"]);
}
