//! Statements that the server does not answer: a trigger cannot be interrupted, or a synchronous standby is absent.

use std::sync::Arc;
use std::time::Duration;

use mx_job_webhook::{JobEvent, JobRouter};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::logged::Lines;
use super::refused::{logged_within, orphans};
use super::slow_rows::server;
use super::{Fixture, PATIENCE, Running, completed, logging, quick, store, until_logged};
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
    for sql in [
        "ALTER SYSTEM SET synchronous_standby_names = 'absent'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
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
    assert!(most <= 8, "{most} sessions of a queue with 4 connections");
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
    let set = async |standbys: &str| {
        for sql in [
            &*format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'"),
            "SELECT pg_reload_conf()",
        ] {
            let sql = AssertSqlSafe(sql.to_owned());
            sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
    };
    set("absent").await;
    standby.notify_one();
    let start = Instant::now();
    while lines.count(&["refuses to change their rows", "absent-standby", "JOB-1"]) == 0 {
        assert!(start.elapsed() < 2 * PATIENCE, "{}", lines.text());
        sleep(Duration::from_millis(100)).await;
    }
    set("").await;
    worker.end().await;
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status = 'Done'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((done, log.entries().len()), (1, 1));
}
