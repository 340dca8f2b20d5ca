//! What the log and errors show of events.

use std::error::Error as _;

use mx_job_webhook::{Job, JobEvent, JobRouter, Status};
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

/// An event of this user.
fn of_user(user: &str) -> JobEvent {
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.user_guid = Some(user.parse().unwrap());
    job.into()
}

/// Guide: "Errors of the queue have the server's code, and its message if that cannot repeat a value of the row, which could
/// name a user. What your triggers raise (with the code `P0001`) is in that message".
async fn an_error_names_no_user(body: &str) {
    let fixture = Fixture::new().await;
    fixture
        .execute(&format!(
            "CREATE FUNCTION names_the_user() RETURNS trigger LANGUAGE plpgsql AS $f$
             DECLARE uid text := convert_from(NEW.job, 'UTF8')::jsonb #>> '{{job,user_guid}}';
             BEGIN {body} RETURN NEW; END $f$;
             CREATE TRIGGER attack BEFORE INSERT ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION names_the_user()"
        ))
        .await;
    let error = fixture.queue.enqueue().oneshot(of_user("USR-secret")).await;
    let error = error.unwrap_err();
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    assert!(!text.contains("USR-secret"), "{text}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_file_names_no_user() {
    an_error_names_no_user("PERFORM pg_read_file('/nonexistent/' || uid);").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_that_a_trigger_raises_as_a_constraint_names_no_user() {
    an_error_names_no_user(
        "RAISE check_violation USING MESSAGE = 'the user ' || uid || ' is blocked';",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_privilege_names_no_user() {
    an_error_names_no_user(
        "EXECUTE format('CREATE TABLE %I ()', uid);
         EXECUTE format('CREATE ROLE %I', 'reader ' || pg_backend_pid());
         EXECUTE format('SET LOCAL ROLE %I', 'reader ' || pg_backend_pid());
         EXECUTE format('SELECT FROM %I', uid);",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_state_names_no_user() {
    an_error_names_no_user(
        "EXECUTE format('CREATE SEQUENCE %I', uid); PERFORM currval(quote_ident(uid)::regclass);",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_constraint_of_another_table_names_no_user() {
    an_error_names_no_user("EXECUTE format('CREATE TABLE t (x int CONSTRAINT %I CHECK (x > 1))', uid); INSERT INTO t VALUES (0);").await;
}

/// Guide: "Errors of the queue have the server's code, and its message if that cannot repeat a value of the row, which could
/// name a user." So have its notices, which reach the log too. A trigger creates what a user needs.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_notice_names_no_user() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE TABLE \"USR-noticed\" ();
             CREATE FUNCTION names_the_user() RETURNS trigger LANGUAGE plpgsql AS $f$
             DECLARE uid text := convert_from(NEW.job, 'UTF8')::jsonb #>> '{job,user_guid}';
             BEGIN EXECUTE format('CREATE TABLE IF NOT EXISTS %I ()', uid); RETURN NEW; END $f$;
             CREATE TRIGGER attack BEFORE INSERT OR UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION names_the_user()",
        )
        .await;
    let lines = Lines::of_all_tests();
    fixture.store(of_user("USR-noticed")).await;
    let worker = Running::start(quick(&fixture.queue, JobRouter::new()));
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;
    assert_eq!(lines.count(&["USR-noticed"]), 0, "{}", lines.text());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_table_of_a_user_in_the_schema_names_no_user() {
    an_error_names_no_user("EXECUTE format('INSERT INTO apalis.%I VALUES (1)', uid);").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_table_that_is_named_without_schema_names_no_user() {
    an_error_names_no_user("PERFORM (quote_ident('apalis.' || uid))::regclass;").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_that_a_trigger_raises_as_a_privilege_names_no_user() {
    an_error_names_no_user(
        "RAISE insufficient_privilege USING MESSAGE = 'the user ' || uid || ' may not have jobs';",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_privilege_on_a_table_of_a_user_names_no_user() {
    an_error_names_no_user(
        "EXECUTE format('CREATE TABLE %I ()', uid || '_jobs');
         EXECUTE format('CREATE ROLE %I', 'reader ' || pg_backend_pid());
         EXECUTE format('SET LOCAL ROLE %I', 'reader ' || pg_backend_pid());
         EXECUTE format('SELECT FROM %I', uid || '_jobs');",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_about_a_constraint_of_a_table_of_the_same_name_names_no_user() {
    an_error_names_no_user(
        "EXECUTE format('CREATE TEMP TABLE jobs (x int CONSTRAINT %I CHECK (x > 1))', uid);
         INSERT INTO pg_temp.jobs VALUES (0);",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_that_a_trigger_raises_with_a_constraint_names_no_user() {
    an_error_names_no_user(
        "RAISE check_violation USING TABLE = TG_TABLE_NAME, CONSTRAINT = 'blocked ' || uid, MESSAGE = 'no';",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_notice_of_commit_in_names_no_user() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE TABLE \"USR-in-commit-in\" ();
             CREATE FUNCTION names_the_user() RETURNS trigger LANGUAGE plpgsql AS $f$
             DECLARE uid text := convert_from(NEW.job, 'UTF8')::jsonb #>> '{job,user_guid}';
             BEGIN EXECUTE format('CREATE TABLE IF NOT EXISTS %I ()', uid); RETURN NEW; END $f$;
             CREATE TRIGGER attack BEFORE UPDATE ON apalis.jobs FOR EACH ROW WHEN (NEW.status = 'Done')
                 EXECUTE FUNCTION names_the_user()",
        )
        .await;
    let lines = Lines::of_all_tests();
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.user_guid = Some("USR-in-commit-in".parse().unwrap());
    fixture.store(job.into()).await;
    let (pool, queue) = (fixture.pool.clone(), fixture.queue.clone());
    let jobs =
        mx_job_webhook::JobRouter::new().on_completed(move |event: mx_job_webhook::JobEvent| {
            let (pool, queue) = (pool.clone(), queue.clone());
            async move {
                let mut transaction = pool.begin().await?;
                queue.commit_in(&mut transaction, &event).await?;
                transaction.commit().await?;
                Ok::<(), tower::BoxError>(())
            }
        });
    let worker = Running::start(quick(&fixture.queue, jobs));
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;
    assert_eq!(lines.count(&["USR-in-commit-in"]), 0, "{}", lines.text());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_with_a_constraint_of_a_trigger_names_no_user() {
    an_error_names_no_user(
        "RAISE EXCEPTION USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
             CONSTRAINT = 'limit of ' || uid;",
    )
    .await;
}
