//! A database for one test, and the example's processes on it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::example;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::{DEAD_AFTER, DURABLE_QUEUE, PATIENCE};

/// Drops the database when it is dropped.
pub(super) struct Database {
    name: String,
    options: PgConnectOptions,
    pool: PgPool,
}

impl Database {
    pub(super) async fn create() -> Self {
        let name = format!("mx_test_{:016x}", fastrand::u64(..));
        administer(format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        let options = server().database(&name);
        let pool = PgPool::connect_lazy_with(options.clone());
        Self {
            name,
            options,
            pool,
        }
    }

    /// Returns the example's command on this database, in a role (or both), with callbacks of `work` seconds.
    pub(super) fn example(&self, role: &str, work: f64) -> Command {
        let mut command = example(DURABLE_QUEUE);
        command
            .args((!role.is_empty()).then_some(role))
            .env("DATABASE_URL", self.options.to_url_lossy().as_str())
            .env("WORK_SECONDS", work.to_string())
            .env("DEAD_AFTER_SECONDS", DEAD_AFTER.as_secs().to_string());
        command
    }

    pub(super) async fn tasks(&self, such_that: &str) -> i64 {
        let query = format!("SELECT count(*) FROM apalis.jobs WHERE {such_that}");
        let query = sqlx::query_scalar(AssertSqlSafe(query));
        query.fetch_one(&self.pool).await.unwrap()
    }

    /// Makes dead letters run again, as the example's head describes.
    pub(super) async fn revive(&self, such_that: &str) {
        let revived = "UPDATE apalis.jobs SET status = 'Pending', attempts = 0";
        self.execute(&format!("{revived} WHERE {such_that}")).await;
    }

    pub(super) async fn execute(&self, statement: &str) {
        let statement = sqlx::query(AssertSqlSafe(statement.to_owned()));
        statement.execute(&self.pool).await.unwrap();
    }

    /// Deletes the rows that `queries/backend/vacuum.sql` of apalis 1.0 deletes.
    pub(super) async fn vacuum(&self) {
        self.execute(
            "DELETE FROM apalis.jobs WHERE status = 'Done' OR status = 'Killed'
                 OR (status = 'Failed' AND max_attempts <= attempts)",
        )
        .await;
    }

    pub(super) async fn workers(&self) -> i64 {
        let query = sqlx::query_scalar("SELECT count(*) FROM apalis.workers");
        query.fetch_one(&self.pool).await.unwrap()
    }

    /// Holds advisory locks, as an application in the same database may. Dropping the connection releases them.
    pub(super) async fn hold_advisory_locks(&self, numbers: &str) -> PgConnection {
        let mut application = PgConnection::connect_with(&self.options).await.unwrap();
        let query = format!("SELECT pg_advisory_lock(number) FROM ({numbers}) AS held (number)");
        let query = sqlx::query(AssertSqlSafe(query));
        query.execute(&mut application).await.unwrap();
        application
    }

    /// Returns the callbacks' effects, in the order of the events' names.
    pub(super) async fn worked(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT event FROM accounts_read ORDER BY event")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    /// Cuts all connections, as a restart of the server does.
    pub(super) async fn cut_connections(&self) {
        let mut holding_up = self.pool.begin().await.unwrap();
        for statement in [
            "LOCK TABLE apalis.jobs",
            "SELECT pg_sleep(0.1)",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()",
        ] {
            let query = sqlx::query(statement);
            query.execute(&mut *holding_up).await.unwrap();
        }
    }

    /// Waits until no task is left for a worker.
    pub(super) async fn settle(&self) {
        let open = "NOT (status IN ('Done', 'Killed')
                         OR (status = 'Failed' AND attempts >= max_attempts))";
        let patience = Instant::now() + PATIENCE;
        while self.tasks(open).await != 0 {
            assert!(Instant::now() < patience, "there are tasks left");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // In its own runtime, because `drop` cannot await.
        let dropped = thread::spawn(|| Runtime::new().unwrap().block_on(administer(statement)));
        let _ = dropped.join();
    }
}

async fn administer(statement: String) {
    let mut server = PgConnection::connect_with(&server()).await.unwrap();
    let statement = sqlx::query(AssertSqlSafe(statement));
    statement.execute(&mut server).await.unwrap();
}

fn server() -> PgConnectOptions {
    let url = std::env::var("MX_TEST_POSTGRES_URL").expect("MX_TEST_POSTGRES_URL is not set");
    url.parse().unwrap()
}
