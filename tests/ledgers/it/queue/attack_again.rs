//! Promises of the durable queue, tested by breaking them a second time.

use std::sync::Arc;
use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::queue::Try;
use mx_job_webhook::{JobEvent, JobRouter, Permanent};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceExt as _};

use super::attack::{Lines, PANICS, sleeping_trigger, slow};
use super::{
    DEAD_AFTER, Fixture, PATIENCE, Running, completed, logging, quick, store, until_logged,
};
use crate::proxy::{Network, Proxy};
use crate::support::Log;

const KILLED: &str =
    "UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"no\"}'";

/// The sessions of a queue, by the comment of their last statement.
pub(super) const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%/* mx-job-webhook%' AND pid <> pg_backend_pid()";

/// "The queue has connections of its own, at most four by default".
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn replays_and_discards_open_no_further_connections() {
    let fixture = Fixture::new().await;
    for number in 0..30 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture.execute(KILLED).await;
    let page = fixture
        .queue
        .dead_letters(&LetterFilter::new())
        .await
        .unwrap();
    for letter in page.letters() {
        assert!(fixture.queue.replay(letter.name()).await.unwrap());
    }
    let sessions = fixture.number(SESSIONS).await;
    assert!(sessions <= 4, "{sessions} sessions");
}

/// "A worker sends heartbeats to the database while callbacks run": an event that it takes while a heartbeat waits for a
/// lock, such as that of a new index, does not look unknown to that heartbeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_heartbeat_that_waited_returns_no_event_that_was_taken_meanwhile() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let worker = Running::start(
        quick(&fixture.queue, slow(&log, Duration::from_secs(8)))
            .with_dead_after(Duration::from_secs(1)),
    );
    sleep(Duration::from_secs(1)).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.workers IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    sleep(Duration::from_millis(500)).await;
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    sleep(Duration::from_millis(2_500)).await;
    lock.rollback().await.unwrap();
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;
    assert_eq!(log.entries(), ["JOB-1"]);
    assert_eq!(fixture.rows("attempts = 1").await, 1);
}

/// "If the whole database was away, no worker counts as dead before it has had as long to report again." While a network
/// hangs, each worker gives up several heartbeats, and all of them arrive at once when it continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn heartbeats_that_were_given_up_take_over_nothing() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let dead_after = Duration::from_secs(4);
    let log = Log::default();
    let mut workers = Vec::new();
    for number in 0..8 {
        let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
        fixture.store(completed(&format!("JOB-{number}"))).await;
        let jobs = slow(&log, Duration::from_secs(30));
        let worker = quick(&queue, jobs)
            .with_concurrency(1)
            .with_dead_after(dead_after);
        workers.push(Running::start(worker));
        until_logged(&log, number + 1).await;
        // All of its connections are open.
        let opening = (0..16).map(|other| {
            let (queue, guid) = (queue.clone(), format!("OTHER-{number}-{other}"));
            tokio::spawn(async move { store(&queue, super::event(&guid, "DENIED".into())).await })
        });
        for opened in opening.collect::<Vec<_>>() {
            opened.await.unwrap();
        }
    }
    fixture
        .execute("DELETE FROM apalis.jobs WHERE idempotency_key LIKE 'OTHER%'")
        .await;
    sleep(dead_after * 3 / 2).await;
    proxy.set(Network::Hangs);
    sleep(Duration::from_secs(13)).await;
    proxy.set(Network::Works);
    fixture.until(8, "status = 'Done'").await;
    for worker in workers {
        worker.end().await;
    }
    assert_eq!(log.entries().len(), 8, "{:?}", log.entries());
    assert_eq!(fixture.rows("attempts = 1").await, 8);
}

/// `observability`: "ERROR with the event's name for an event that has failed for the last time", whatever its name.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn dead_letters_of_a_dead_worker_are_logged_whatever_their_names() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    fixture.store(completed("JOB-of-a-dead-\"worker\"")).await;
    fixture.store(completed("JOB-beside-it")).await;
    fixture.store(completed("JOB-without-a-name")).await;
    let other = Running::start(quick(&fixture.queue, JobRouter::new()));
    other.end().await;
    fixture
        .execute(
            "UPDATE apalis.workers SET last_seen = now() - interval '1 hour';
             UPDATE apalis.jobs SET status = 'Running', attempts = 2, max_attempts = 3, lock_at = now(), done_at = NULL,
                 idempotency_key = nullif(idempotency_key, 'JOB-without-a-name COMPLETED -'),
                 lock_by = (SELECT id FROM apalis.workers LIMIT 1);
             UPDATE apalis.jobs SET idempotency_key = NULL WHERE idempotency_key LIKE 'JOB-without%'",
        )
        .await;
    let worker = Running::start(quick(&fixture.queue, JobRouter::new()));
    fixture.until(3, "status = 'Failed' AND attempts = 3").await;
    sleep(Duration::from_millis(300)).await;
    worker.end().await;
    assert!(lines.has(&["is a dead letter", "JOB-beside-it"]));
    assert!(lines.has(&["is a dead letter", "JOB-of-a-dead-", "worker"]));
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

/// "It opens them as the pool does, with the same options": a server that closes idle sessions refuses no event.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_server_that_closes_idle_sessions_refuses_no_event() {
    let fixture = Fixture::new().await;
    let options = fixture.database.options();
    let (_pool, queue) = super::queue(options.options([("idle_session_timeout", "500ms")]));
    for number in 0..2 {
        store(&queue, completed(&format!("JOB-{number}"))).await;
        assert_eq!(queue.counts().await.unwrap().waiting, number + 1);
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(queue.counts().await.unwrap().waiting, 2);
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

/// `observability`: "ERROR with the event's name for an event that has failed for the last time", also if the server's
/// answer is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_dead_letter_is_logged_although_the_answer_was_lost() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    let lines = Lines::of_all_tests();
    let switch = proxy.switch();
    let jobs = JobRouter::new().on_completed(move |_: JobEvent| {
        switch.send_replace(Network::LosesOneAnswer);
        async { Err::<(), _>(Permanent::new("no")) }
    });
    fixture.store(completed("JOB-whose-answer-is-lost")).await;
    let worker = Running::start(
        queue
            .worker(jobs)
            .with_concurrency(1)
            .with_poll_interval(Duration::from_secs(3600)),
    );
    fixture.until(1, "status = 'Killed'").await;
    sleep(Duration::from_secs(1)).await;
    worker.end().await;
    assert!(lines.has(&["is a dead letter", "JOB-whose-answer-is-lost"]));
}

/// The application closes its pool before the worker has ended. The worker ends, and another one runs the event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_pool_that_is_closed_early_loses_no_event() {
    let fixture = Fixture::new().await;
    let (pool, queue) = super::queue(fixture.database.options());
    store(&queue, completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, slow(&log, Duration::from_secs(2))));
    until_logged(&log, 1).await;
    worker.shut_down();
    pool.close().await;
    worker.end().await;
    let refused = queue.enqueue().oneshot(completed("JOB-2")).await;
    assert!(refused.is_err());
    let other = Running::start(quick(&fixture.queue, logging(&log)));
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    other.end().await;
}

/// The settings that `after_connect` makes change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn settings_of_the_application_change_nothing() {
    let fixture = Fixture::new().await;
    let pool = PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(
                    "SET standard_conforming_strings = off; SET backslash_quote = off; SET DateStyle = 'SQL, DMY';
                     SET IntervalStyle = 'sql_standard'; SET TimeZone = 'Asia/Kathmandu';
                     SET bytea_output = 'escape'; SET transform_null_equals = on; SET array_nulls = off;
                     SET extra_float_digits = -15; SET synchronous_commit = off; SET quote_all_identifiers = on;
                     SET default_transaction_isolation = 'serializable'; SET default_transaction_deferrable = on;
                     SET enable_indexscan = off; SET jit_above_cost = 0; SET plan_cache_mode = force_generic_plan;
                     SET lc_messages = 'C'; SET statement_timeout = '1min'; SET idle_in_transaction_session_timeout = 1000",
                )
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .connect_lazy_with(fixture.database.options());
    let queue =
        mx_job_webhook::queue::JobQueue::postgres(pool.clone()).named("a 'b' \"c\" \\ $1 é 🏦 --");
    let name = "JOB '\"\\ $1 é 🏦 -- /*";
    let log = Log::default();
    let is_mended = Arc::new(Notify::new());
    let (noted, mended) = (log.clone(), is_mended.clone());
    let (transactions, own) = (pool.clone(), queue.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, pool, queue) = (noted.clone(), transactions.clone(), own.clone());
        let mended = mended.clone();
        async move {
            let it = Try::of(&event).unwrap();
            log.push(format!("{} {} {}", event.guid, it.number(), it.is_last()));
            if it.number() <= 2 {
                return Err::<(), BoxError>("é '\"\\ \0 no".into());
            }
            let mut transaction = pool.begin().await?;
            queue.commit_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            mended.notify_one();
            Ok(())
        }
    });
    let worker = Running::start(quick(&queue, jobs).with_tries(2));
    store(&queue, completed(name)).await;
    until_logged(&log, 2).await;
    fixture.until(1, "status = 'Failed' AND attempts = 2").await;
    let filter = LetterFilter::new().with_error_containing("é '\"\\");
    let page = queue.dead_letters(&filter).await.unwrap();
    assert_eq!(page.letters().len(), 1, "{page:?}");
    assert_eq!(page.letters()[0].guid().unwrap().as_str(), name);
    assert!(queue.replay(page.letters()[0].name()).await.unwrap());
    fixture.until(1, "status = 'Done' AND attempts = 3").await;
    is_mended.notified().await;
    worker.end().await;
    assert_eq!(queue.counts().await.unwrap().dead, 0);
    assert_eq!(log.entries().len(), 3);
}

/// A callback that panics fails, and the worker continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn panics_are_failures_with_pauses() {
    let fixture = Fixture::new().await;
    let jobs = JobRouter::new().on_completed(|event: JobEvent| {
        assert!(event.guid.as_str() != "JOB-at-once", "at once");
        async move {
            tokio::task::yield_now().await;
            assert!(event.guid.as_str() != "JOB-later", "later");
            Ok::<(), BoxError>(())
        }
    });
    let worker = Running::start(
        quick(&fixture.queue, jobs)
            .with_tries(2)
            .with_concurrency(1),
    );
    for guid in ["JOB-at-once", "JOB-later", "JOB-good"] {
        fixture.store(completed(guid)).await;
    }
    fixture.until(2, "status = 'Failed' AND attempts = 2").await;
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;
}

/// A row that another transaction has locked delays no other event, and it is recorded once it is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_row_that_is_locked_by_others_is_recorded_later() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    fixture.store(completed("JOB-locked")).await;
    let worker = Running::start(quick(&fixture.queue, slow(&log, Duration::from_secs(1))));
    until_logged(&log, 1).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM apalis.jobs FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    fixture.store(completed("JOB-2")).await;
    fixture.until(1, "status = 'Done'").await;
    sleep(DEAD_AFTER * 2).await;
    assert_eq!(fixture.rows("status = 'Running'").await, 1);
    lock.rollback().await.unwrap();
    fixture.until(2, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    assert_eq!(log.entries().len(), 2);
}

/// A worker whose fetches are slow takes no event twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_while_events_are_fetched_runs_or_leaves_them() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    sleeping_trigger(&fixture, "UPDATE", "NEW.status = 'Running'", 1.0).await;
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    sleep(Duration::from_millis(600)).await;
    worker.end().await;
    assert_eq!(log.entries(), ["JOB-1"]);
    assert_eq!(fixture.rows("status = 'Done'").await, 1);
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

/// "The fencing token of the later run is larger", also if the server's clock was set back. An event that has ended is
/// nobody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_token_is_larger_although_the_clock_was_set_back() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let noted = log.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        noted.push(event.fencing_token().unwrap().get().to_string());
        async { Err::<(), BoxError>("no".into()) }
    });
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET lock_at = now() + interval '1 hour'")
        .await;
    let before = fixture
        .number("SELECT (extract(epoch FROM lock_at) * 1000000)::bigint FROM apalis.jobs")
        .await;
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(2));
    fixture.until(1, "status = 'Failed' AND attempts = 2").await;
    worker.end().await;
    let tokens: Vec<i64> = log
        .entries()
        .iter()
        .map(|token| token.parse().unwrap())
        .collect();
    assert_eq!(tokens, [before + 1, before + 2]);
    assert_eq!(fixture.rows("lock_by IS NOT NULL").await, 0);
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

/// Callbacks that end at the same time are recorded by few statements.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn tries_that_end_together_are_recorded_together() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE TABLE recorded (statement text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                 IF NEW.status = 'Done' THEN INSERT INTO recorded VALUES (txid_current()); END IF;
                 RETURN NEW; END $f$;
             CREATE TRIGGER note BEFORE UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    for number in 0..60 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let log = Log::default();
    let (noted, together) = (log.clone(), Arc::new(Notify::new()));
    let ends = together.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, together) = (noted.clone(), together.clone());
        async move {
            let notified = together.notified();
            log.push(event.guid.to_string());
            notified.await;
        }
    });
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(60));
    until_logged(&log, 60).await;
    sleep(Duration::from_millis(50)).await;
    ends.notify_waiters();
    fixture.until(60, "status = 'Done'").await;
    worker.end().await;
    let statements = "SELECT count(DISTINCT statement) FROM recorded";
    let statements = fixture.number(statements).await;
    assert!(statements <= 10, "{statements} statements");
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

/// "The number of the try continues" after a replay, and its pauses are those of a new event.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_failure_after_a_replay_keeps_the_number_of_tries_before_it() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET attempts = 3, max_attempts = 3")
        .await;
    fixture.execute(KILLED).await;
    let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
    assert_eq!(replayed.unwrap().succeeded(), 1);
    let failing = JobRouter::new().on_completed(|_| async { Err::<(), _>("no") });
    let worker = Running::start(quick(&fixture.queue, failing).with_tries(3));
    fixture.until(1, "status = 'Failed' AND attempts = 6").await;
    worker.end().await;
    assert_eq!(fixture.rows("last_result ->> 'before' = '3'").await, 1);
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
