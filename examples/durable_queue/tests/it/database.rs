//! A database for one test, and the example's processes on it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::example;
use mx_job_webhook::queue::JobQueue;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::{DURABLE_QUEUE, PATIENCE};

/// An event that no worker has to run.
const ENDED: &str =
    "(status IN ('Done', 'Killed') OR (status = 'Failed' AND attempts >= max_attempts))";

/// Drops the database when it is dropped.
pub(crate) struct Database {
    name: String,
    options: PgConnectOptions,
    pub(crate) pool: PgPool,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let name = format!("mx_test_{:016x}", fastrand::u64(..));
        administer(format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        let options = server().database(&name);
        let pool = PgPoolOptions::new().max_connections(3);
        let pool = pool.connect_lazy_with(options.clone());
        Self {
            name,
            options,
            pool,
        }
    }

    /// Creates the tables, and returns the queue.
    pub(crate) async fn queue(&self) -> JobQueue {
        let queue = JobQueue::postgres(self.pool.clone()).named("mx-jobs");
        queue.migrate().await.unwrap();
        queue
    }

    /// Returns the example's command in a role, or in all of them. Its callbacks end at once.
    pub(crate) fn example(&self, role: &str) -> Command {
        let mut command = example(DURABLE_QUEUE);
        command
            .args((!role.is_empty()).then_some(role))
            .env("DATABASE_URL", self.options.to_url_lossy().as_str())
            .env("WORK_SECONDS", "0")
            .env("DEAD_AFTER_SECONDS", "3");
        command
    }

    pub(crate) async fn rows(&self, such_that: &str) -> i64 {
        let query = format!("SELECT count(*) FROM apalis.jobs WHERE {such_that}");
        let query = sqlx::query_scalar(AssertSqlSafe(query));
        query.fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until this many events have ended, and no other one is left.
    pub(crate) async fn until_ended(&self, events: i64) {
        let patience = Instant::now() + PATIENCE;
        while self.rows(ENDED).await != events || self.rows(&format!("NOT {ENDED}")).await != 0 {
            assert!(Instant::now() < patience, "there are events left");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the names of the events whose callbacks had an effect.
    pub(crate) async fn effects(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT event FROM accounts_read ORDER BY event")
            .fetch_all(&self.pool)
            .await
            .unwrap()
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
