//! Statements that the server does not answer: a trigger cannot be interrupted, or a synchronous standby is absent.

use std::sync::Arc;
use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::{JobEvent, JobRouter};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use super::logged::Lines;
use super::refused::{logged_within, orphans};
use super::slow_rows::server;
use super::{
    Fixture, KILLED, PATIENCE, Running, completed, logging, quick, slow, store, until_logged,
};
use crate::engines::postgres::Version;
use crate::support::Log;

/// The server's own address, for a trigger that asks another server.
async fn remote(fixture: &Fixture) -> String {
    let options: PgConnectOptions = fixture.database.options();
    format!(
        "host=127.0.0.1 port={} user=postgres dbname={}",
        options.get_port(),
        fixture.database.name
    )
}

/// Makes commits wait for a standby of this name, or for none.
async fn wait_for_standby(pool: &PgPool, name: &str) {
    for sql in [
        &*format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"),
        "SELECT pg_reload_conf()",
    ] {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    while name.is_empty() && waiting_sessions(pool).await > 0 {
        sleep(Duration::from_millis(100)).await;
    }
}

/// Returns how many sessions wait for a standby.
async fn waiting_sessions(pool: &PgPool) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'";
    sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
}

/// Guide: "Workers log an error, go on with the other events". The trigger asks another server with `dblink`, which the server does not
/// interrupt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_trigger_cannot_be_interrupted_keeps_no_other_one() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.queue.clone().named("dblink");
    store(&queue, completed("JOB-bad")).await;
    store(&queue, completed("JOB-good")).await;
    let remote = remote(&fixture).await;
    fixture
        .execute(&format!(
            "CREATE EXTENSION dblink;
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM * FROM dblink('{remote}', 'SELECT 1 FROM pg_sleep(12)') AS t (x int); RETURN NEW; END $f$;
             CREATE TRIGGER audit BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad %') EXECUTE FUNCTION audit()"
        ))
        .await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)).with_dead_after(PATIENCE));
    let start = Instant::now();
    let ran = logged_within(&log, 1, Duration::from_secs(100)).await;
    let after = start.elapsed();
    worker.task.abort();
    let warned = lines.count(&["a worker waits for its queue", "dblink"]);
    let blamed = lines.count(&["refuses to change their rows", "dblink"]);
    let attempts = fixture.rows("attempts > 0").await;
    assert!(
        ran,
        "JOB-good did not run for {after:?}; warned {warned}, blamed {blamed}, rows with attempts {attempts}"
    );
}

/// Guide: "After 30 s of silence (`with_dead_after`), others take its events over". The trigger for one of them asks another server with
/// `dblink`, which the server does not interrupt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_of_a_dead_worker_whose_trigger_cannot_be_interrupted_keeps_no_other_one() {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-bad".to_owned(), "JOB-good".to_owned()]).await;
    let remote = remote(&fixture).await;
    fixture
        .execute(&format!(
            "CREATE EXTENSION dblink;
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM * FROM dblink('{remote}', 'SELECT 1 FROM pg_sleep(12)') AS t (x int); RETURN NEW; END $f$;
             CREATE TRIGGER audit BEFORE UPDATE ON apalis.jobs FOR EACH ROW
                 WHEN (NEW.status = 'Pending' AND NEW.idempotency_key LIKE 'JOB-bad %') EXECUTE FUNCTION audit()"
        ))
        .await;
    let log = Log::default();
    let worker = Running::start(
        quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(8)),
    );
    let ran = logged_within(&log, 1, Duration::from_secs(100)).await;
    worker.task.abort();
    assert!(ran, "JOB-good did not run for 100 s");
}

/// Guide: "A commit that waits for an absent synchronous standby does not end: its call is answered 503 after 5 s, and its session stays on
/// the server until the standby is back. With four such sessions, the queue opens no further connection."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_absent_standby_does_not_use_up_the_connections_of_the_server() {
    let (_folder, server) = server(Version::V15, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    wait_for_standby(&pool, "absent").await;
    let start = Instant::now();
    let mut most = 0;
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(25) {
        for _ in 0..4 {
            number += 1;
            tokio::spawn(queue.enqueue().oneshot(completed(&format!("JOB-{number}"))));
        }
        sleep(Duration::from_millis(500)).await;
        let sessions: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND query LIKE '%SET CONSTRAINTS ALL IMMEDIATE%' AND pid <> pg_backend_pid()",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        most = most.max(sessions);
    }
    // Without a limit there would be more than twenty. On a busy machine, the server counts a session later than its client gives up.
    assert!(most <= 12, "{most} sessions of a queue with 4 connections");
}

/// The same for a callback that ends meanwhile: "Workers log an error", and its result is recorded once the standby is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_result_that_waits_for_an_absent_standby_is_logged() {
    let (_folder, server) = server(Version::V15, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let lines = Lines::of_all_tests();
    let queue = queue.named("absent-standby");
    store(&queue, completed("JOB-1")).await;
    let (log, standby) = (Log::default(), Arc::new(Notify::new()));
    let jobs = {
        let (log, standby) = (log.clone(), standby.clone());
        JobRouter::new().on_completed(move |event: JobEvent| {
            let (log, standby) = (log.clone(), standby.clone());
            async move {
                log.push(event.guid.to_string());
                standby.notified().await;
            }
        })
    };
    let worker = Running::start(quick(&queue, jobs));
    until_logged(&log, 1).await;
    wait_for_standby(&pool, "absent").await;
    standby.notify_one();
    let start = Instant::now();
    while lines.count(&["refuses to change their rows", "absent-standby", "JOB-1"]) == 0 {
        assert!(start.elapsed() < 2 * PATIENCE, "{}", lines.text());
        sleep(Duration::from_millis(100)).await;
    }
    wait_for_standby(&pool, "").await;
    worker.end().await;
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status = 'Done'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((done, log.entries().len()), (1, 1));
}

/// The same for connections with another role than that of their login, as with `SET ROLE` in `after_connect` or `ALTER ROLE … SET role`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_absent_standby_does_not_use_up_connections_with_another_role() {
    let (_folder, server) = server(Version::V15, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let roles = "CREATE ROLE owner; GRANT USAGE ON SCHEMA apalis TO owner;
         GRANT ALL ON ALL TABLES IN SCHEMA apalis TO owner; CREATE ROLE app LOGIN IN ROLE owner";
    sqlx::raw_sql(roles).execute(&pool).await.unwrap();
    wait_for_standby(&pool, "absent").await;
    let options = server.options().username("app");
    let (_pool, queue) = super::queue(options.options([("role", "owner")]));
    let start = Instant::now();
    let (mut most, mut number) = (0, 0);
    while start.elapsed() < Duration::from_secs(20) {
        for _ in 0..4 {
            number += 1;
            tokio::spawn(queue.enqueue().oneshot(completed(&format!("JOB-{number}"))));
        }
        sleep(Duration::from_millis(500)).await;
        most = most.max(waiting_sessions(&pool).await);
    }
    // As above.
    assert!(
        0 < most && most <= 12,
        "{most} sessions of a queue with 4 connections"
    );
}

/// `Worker`: "A worker sends heartbeats to the database while callbacks run." They do not wait for the standby, also if the queue has one
/// connection for all that it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_with_one_connection_lives_although_a_standby_is_absent() {
    let (_folder, server) = server(Version::V15, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let queue = queue.with_max_connections(1);
    store(&queue, completed("JOB-long")).await;
    let log = Log::default();
    let jobs = slow(&log, Duration::from_secs(300));
    let dead_after = Duration::from_secs(20);
    let worker = Running::start(quick(&queue, jobs).with_dead_after(dead_after));
    until_logged(&log, 1).await;
    wait_for_standby(&pool, "absent").await;
    let start = Instant::now();
    let (mut silence, mut most, mut number) = (0, 0, 0);
    while start.elapsed() < Duration::from_secs(45) {
        number += 1;
        tokio::spawn(queue.enqueue().oneshot(completed(&format!("JOB-{number}"))));
        sleep(Duration::from_secs(1)).await;
        let now: i64 = sqlx::query_scalar(
            "SELECT extract(epoch FROM clock_timestamp() - last_seen)::bigint FROM apalis.workers",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        silence = silence.max(now);
        most = most.max(waiting_sessions(&pool).await);
    }
    worker.task.abort();
    assert!(silence < 20, "the worker was silent for {silence} s");
    assert!(most <= 5, "{most} sessions of a queue with one connection");
}

/// `replay_all`: "If the server has not answered in time, letters may have been returned or not."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replay_of_all_fails_while_a_standby_is_absent() {
    let (_folder, server) = server(Version::V15, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    for number in 0..40 {
        store(&queue, completed(&format!("JOB-{number}"))).await;
    }
    sqlx::raw_sql(KILLED).execute(&pool).await.unwrap();
    wait_for_standby(&pool, "absent").await;
    let filter = LetterFilter::new();
    let replayed = timeout(PATIENCE, queue.replay_all(&filter)).await;
    assert!(matches!(replayed, Ok(Err(_))), "{replayed:?}");
    wait_for_standby(&pool, "").await;
    assert!(queue.replay_all(&filter).await.is_ok());
    let letters = queue.dead_letters(&filter).await.unwrap();
    assert!(letters.letters().is_empty());
}

/// `prune`: "If the server has not answered in time, rows may have been deleted or not."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_prune_fails_while_a_standby_is_absent() {
    let (_folder, server) = server(Version::V15, &["fsync=off"]).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    for number in 0..40 {
        store(&queue, completed(&format!("JOB-{number}"))).await;
    }
    let old = "UPDATE apalis.jobs SET status = 'Done', done_at = now() - interval '1 day'";
    sqlx::raw_sql(old).execute(&pool).await.unwrap();
    wait_for_standby(&pool, "absent").await;
    let pruned = timeout(PATIENCE, queue.prune(Duration::ZERO)).await;
    assert!(matches!(pruned, Ok(Err(_))), "{pruned:?}");
    wait_for_standby(&pool, "").await;
    assert!(queue.prune(Duration::ZERO).await.is_ok());
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM apalis.jobs")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

/// The same for one row, whose trigger asks another server. Rows that the statement has not locked are deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_prune_goes_on_beside_a_statement_without_an_answer() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-bad")).await;
    let remote = remote(&fixture).await;
    fixture
        .execute(&format!(
            "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key, done_at)
             SELECT 'id-' || n, job_type, job, 'Done', 1, 12, now(), 0, 'OLD-' || n || ' COMPLETED -', now() - interval '8 days'
             FROM apalis.jobs, generate_series(1, 2100) AS n;
             UPDATE apalis.jobs SET status = 'Done', done_at = now() - interval '9 days' WHERE idempotency_key LIKE 'JOB-bad %';
             CREATE EXTENSION dblink;
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM * FROM dblink('{remote}', 'SELECT 1 FROM pg_sleep(12)') AS t (x int); RETURN OLD; END $f$;
             CREATE TRIGGER audit BEFORE DELETE ON apalis.jobs FOR EACH ROW
                 WHEN (OLD.idempotency_key LIKE 'JOB-bad %') EXECUTE FUNCTION audit()"
        ))
        .await;
    let pruned = timeout(PATIENCE, fixture.queue.prune(Duration::ZERO)).await;
    assert!(matches!(pruned, Ok(Err(_))), "{pruned:?}");
    assert_eq!(fixture.rows("true").await, 2_000);
}
