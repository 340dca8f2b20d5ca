//! Creating the tables.

use mx_job_webhook::queue::JobQueue;
use sqlx::error::ErrorKind;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

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
