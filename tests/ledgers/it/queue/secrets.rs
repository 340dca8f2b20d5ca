//! What the log and errors show of events.

use mx_job_webhook::JobEvent;
use sqlx::AssertSqlSafe;
use tower::ServiceExt as _;

use super::logged::Lines;
use super::slow_rows::server;
use super::{Fixture, Running, completed, logging, quick};
use crate::engines::postgres::Version;
use crate::support::Log;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Guide: "Errors of the queue have the server's code and message, and not what the server adds about a row, which could name a
/// user." The constraints are the application's, and raise nothing by themselves.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn errors_about_a_value_of_a_row_do_not_show_it() {
    let user = r#"substring(convert_from(job, 'UTF8') FROM 'USR[A-Z]*')"#;
    let mut shown = Vec::new();
    for check in [
        format!("('tenant_' || {user})::regnamespace IS NOT NULL"),
        format!("('tenant_' || {user})::regrole IS NOT NULL"),
        format!("('tenant_' || {user})::regclass IS NOT NULL"),
        format!("({user} || ' x')::tsquery IS NOT NULL"),
        format!("({user} || ' x')::jsonpath IS NOT NULL"),
        format!("({user} || ' x')::hstore IS NOT NULL"),
        format!("({user} || ' x')::int > 0"),
    ] {
        let fixture = Fixture::new().await;
        fixture
            .execute(&format!("ALTER TABLE apalis.jobs ADD CHECK ({check})"))
            .await;
        let body = r#"{"job": {"guid": "JOB-1", "status": 6, "user_guid": "USRSECRET"}}"#;
        let event = JobEvent::decode(body).unwrap();
        let error = fixture.queue.enqueue().oneshot(event).await.unwrap_err();
        let printed = format!("{error:#} {error:?}");
        if printed.to_lowercase().contains("usrsecret") {
            shown.push(format!("{error:#}"));
        }
    }
    assert!(shown.is_empty(), "{shown:#?}");
}

/// Guide: with these settings, the server's log shows no bodies. A constraint refuses to store an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_server_that_refuses_an_event_logs_no_body() {
    const SETTINGS: &[&str] = &[
        "fsync=off",
        "log_parameter_max_length=0",
        "log_min_error_statement=fatal",
        "log_error_verbosity=terse",
    ];
    let (_folder, server) = server(Version::V15, SETTINGS).await;
    let (pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    sqlx::raw_sql("ALTER TABLE apalis.jobs ADD CHECK (status <> 'Pending')")
        .execute(&pool)
        .await
        .unwrap();
    let body = r#"{"job":{"user_guid":"USR-1","guid":"JOB-1","status":6}}"#;
    let event = JobEvent::decode(body).unwrap();
    queue.enqueue().oneshot(event).await.unwrap_err();
    let log = server.log();
    let line = log.lines().find(|line| line.contains(&hex(b"USR-1")));
    assert_eq!(line, None);
}

/// Brief: user ids never reach a log. A stored body that is no event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_that_cannot_be_decoded_is_not_shown() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    for (number, body) in [
        r#"{"job": {"guid": "JOB-1", "status": {"USR-UNDECODABLE": 1}}}"#,
        r#"{"job": {"guid": {"USR-UNDECODABLE": 3}, "status": 6}}"#,
        r#"{"job": "USR-UNDECODABLE"}"#,
        r#"USR-UNDECODABLE"#,
        r#"{"job": {"guid": "JOB-1", "status": "USR-UNDECODABLE", "updated_at": "USR-UNDECODABLE", "is_authenticated": "USR-UNDECODABLE"}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        fixture.store(completed(&format!("JOB-{number}"))).await;
        let sql = format!(
            "UPDATE apalis.jobs SET job = convert_to('{body}', 'UTF8') WHERE idempotency_key LIKE 'JOB-{number} %'"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&fixture.pool).await.unwrap();
    }
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    fixture.until(5, "status IN ('Killed', 'Done')").await;
    worker.end().await;
    let letters = fixture.letters().await;
    assert!(!format!("{letters:?}").contains("USR-UNDECODABLE"));
    for letter in letters.letters() {
        assert!(
            !letter.error().contains("USR-UNDECODABLE"),
            "{}",
            letter.error()
        );
    }
    assert!(!lines.text().contains("USR-UNDECODABLE"));
}
