//! Creating the tables.

use std::time::Duration;

use mx_job_webhook::queue::JobQueue;
use sqlx::error::ErrorKind;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Fixture, Running, completed, logging, queue, quick, store, until_logged};
use crate::engines::postgres::{Database, Postgres, Version};
use crate::support::Log;
use harness::servers::Folder;

async fn works(pool: &PgPool, queue: &JobQueue) {
    store(queue, completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(queue, logging(&log)));
    until_logged(&log, 1).await;
    worker.end().await;
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status = 'Done'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(done, 1);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn many_replicas_create_the_tables_at_once() {
    let database = Database::create("").await;
    let mut replicas = JoinSet::new();
    for _ in 0..8 {
        let (_, queue) = queue(database.options());
        replicas.spawn(async move { queue.migrate().await });
    }
    for migrated in replicas.join_all().await {
        migrated.unwrap();
    }
    let (pool, queue) = queue(database.options());
    works(&pool, &queue).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_printed_sql_makes_the_same_tables() {
    let database = Database::create("").await;
    let (pool, queue) = queue(database.options());
    sqlx::raw_sql(AssertSqlSafe(JobQueue::sql()))
        .execute(&pool)
        .await
        .unwrap();
    // The application's role may not create anything, and `migrate` finds nothing to do.
    let role = format!("app_{}", database.name);
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA apalis TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers, mx_job_webhook_dead_letters TO {role}"
    );
    sqlx::raw_sql(AssertSqlSafe(grants))
        .execute(&pool)
        .await
        .unwrap();
    let (_, limited) = super::queue(database.options().username(&role));
    limited.migrate().await.unwrap();
    works(&pool, &limited).await;
    // On some servers, it may not see the sessions either.
    sqlx::raw_sql("REVOKE SELECT ON pg_stat_activity FROM PUBLIC; TRUNCATE apalis.jobs")
        .execute(&pool)
        .await
        .unwrap();
    let (_, limited) = super::queue(database.options().username(&role));
    works(&pool, &limited).await;
    queue.migrate().await.unwrap();
    // apalis' own set-up sees that its migrations are applied.
    let applied: i64 =
        sqlx::query_scalar("SELECT count(*) FROM apalis._sqlx_migrations WHERE success")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert!(applied >= 20, "{applied}");
    let dropped = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(dropped))
        .execute(&pool)
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn tables_that_are_of_no_use_are_refused() {
    let fixture = Fixture::new().await;
    for (change, undo, expected) in [
        (
            "COMMENT ON INDEX apalis.mx_job_webhook_done IS 'mx-job-webhook queue schema 2'",
            "COMMENT ON INDEX apalis.mx_job_webhook_done IS 'mx-job-webhook queue schema 1'",
            "version 2",
        ),
        (
            "ALTER TABLE apalis.jobs RENAME COLUMN idempotency_key TO key",
            "ALTER TABLE apalis.jobs RENAME COLUMN key TO idempotency_key",
            "columns",
        ),
    ] {
        fixture.execute(change).await;
        let error = fixture.queue.migrate().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        fixture.execute(undo).await;
        fixture.queue.migrate().await.unwrap();
    }
    let latin =
        Database::create("TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'").await;
    let error = queue(latin.options())
        .1
        .migrate()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("LATIN1"), "{error}");

    let folder = Folder::new();
    let old = Postgres::primary(&folder, Version::V10, &[]);
    let error = queue(old.options())
        .1
        .migrate()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("Postgres 13"), "{error}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_without_tables_ends_with_an_error_and_an_event_is_not_acknowledged() {
    let database = Database::create("").await;
    let (_, queue) = queue(database.options());
    let worker = quick(&queue, logging(&Log::default()));
    let error = worker
        .run_until(std::future::pending::<()>())
        .await
        .unwrap_err();
    let error = error.as_database_error().unwrap();
    assert_eq!(error.kind(), ErrorKind::Other);
    assert!(error.message().contains("apalis"), "{error}");
    use tower::ServiceExt as _;
    let refused = queue.enqueue().oneshot(completed("JOB-1")).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        mx_job_webhook::ErrorKind::QueueUnavailable
    );
}

/// `migrate`: the error is `Configuration` "if the role may not use the schema, or may not read and write the tables. The
/// error contains the grant."
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_role_that_lacks_a_grant_is_refused_with_it() {
    let fixture = Fixture::new().await;
    let role = format!("app_{}", fixture.database.name);
    fixture.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let (pool, limited) = super::queue(fixture.database.options().username(&role));
    let mut refused = Vec::new();
    for grant in [
        "USAGE ON SCHEMA apalis",
        "SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers",
        "SELECT, INSERT, UPDATE, DELETE ON mx_job_webhook_dead_letters",
    ] {
        refused.push(limited.migrate().await);
        fixture.execute(&format!("GRANT {grant} TO {role}")).await;
    }
    let migrated = limited.migrate().await;
    pool.close().await;
    fixture
        .execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
    for (refused, expected) in refused.into_iter().zip([
        "GRANT USAGE ON SCHEMA apalis",
        "apalis.workers: GRANT SELECT, INSERT, UPDATE, DELETE",
        "mx_job_webhook_dead_letters: GRANT SELECT, INSERT, UPDATE, DELETE",
    ]) {
        let error = refused.unwrap_err();
        assert!(matches!(error, sqlx::Error::Configuration(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    migrated.unwrap();
}

/// `migrate`: "Tables of apalis before its version 1.0 need a step by hand first". Their history is in the table
/// `public._sqlx_migrations`.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn tables_of_apalis_before_its_version_1_are_refused_until_their_history_is_moved() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "ALTER TABLE apalis._sqlx_migrations SET SCHEMA public;
             DROP INDEX apalis.mx_job_webhook_done; DROP INDEX apalis.mx_job_webhook_dead",
        )
        .await;
    for empty in [
        "SELECT",
        "CREATE TABLE apalis._sqlx_migrations (LIKE public._sqlx_migrations)",
    ] {
        fixture.execute(empty).await;
        let error = fixture.queue.migrate().await.unwrap_err();
        assert!(matches!(error, sqlx::Error::Configuration(_)), "{error}");
        assert!(error.to_string().contains("Upgrading to 1.0"), "{error}");
    }
    fixture
        .execute(
            "DROP TABLE apalis._sqlx_migrations;
             ALTER TABLE public._sqlx_migrations SET SCHEMA apalis",
        )
        .await;
    fixture.queue.migrate().await.unwrap();
}

/// `migrate`: "If the tables exist, the method locks nothing". The machine of a replica that migrated has disappeared.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_lock_of_another_replica_keeps_no_start_waiting() {
    let fixture = Fixture::new().await;
    let mut lock = fixture.pool.begin().await.unwrap();
    // Those of the queue's tables, and of the table of its dead letters.
    for number in ["7888171773965329765", "7888171773965329764"] {
        let sql = format!("SELECT pg_advisory_xact_lock({number})");
        let sql = AssertSqlSafe(sql);
        sqlx::raw_sql(sql).execute(&mut *lock).await.unwrap();
    }
    let other = fixture.other();
    let migrated = timeout(Duration::from_secs(10), other.migrate()).await;
    migrated.unwrap().unwrap();
    lock.rollback().await.unwrap();
}
