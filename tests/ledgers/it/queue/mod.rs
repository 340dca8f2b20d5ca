//! The durable queue on PostgreSQL: what it stores, how often it tries, and what it survives.

mod connections;
mod dead_letters;
mod deliveries;
mod dying;
mod engines;
mod fetching;
mod heartbeats;
mod kept;
mod logged;
mod plans;
mod refused;
mod searches;
mod secrets;
mod slow_rows;
mod storing;
mod storm;
mod tables;
mod traffic;
mod trying;
mod unanswered;
mod waits;
mod watch;

use std::sync::{Arc, Weak};
use std::time::Duration;

use mx_job_webhook::callback::JobService;
use mx_job_webhook::dead_letters::{LetterFilter, LetterPage};
use mx_job_webhook::queue::{JobQueue, QueueCounts, Worker};
use mx_job_webhook::{Job, JobEvent, JobRouter, Receipt, Status};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use crate::engines::postgres::{Database, pool};
use crate::support::Log;

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time after which a silent worker counts as dead in these tests.
const DEAD_AFTER: Duration = Duration::from_secs(2);

/// Makes dead letters of all events.
const KILLED: &str =
    "UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"no\"}'";

/// A queue in a database of its own.
struct Fixture {
    database: Database,
    pool: PgPool,
    queue: JobQueue,
    _template: Arc<Database>,
}

/// Returns a database with the tables. Copies of it are made sooner than the tables. The last test that uses it drops it.
async fn template() -> Arc<Database> {
    static TEMPLATE: Mutex<Weak<Database>> = Mutex::const_new(Weak::new());
    let mut template = TEMPLATE.lock().await;
    if let Some(made) = template.upgrade() {
        return made;
    }
    let made = Arc::new(Database::create("").await);
    *template = Arc::downgrade(&made);
    let pool = made.pool();
    let tables = sqlx::raw_sql(AssertSqlSafe(JobQueue::sql()));
    tables.execute(&pool).await.unwrap();
    // A database with sessions cannot be copied.
    pool.close().await;
    made
}

impl Fixture {
    async fn new() -> Self {
        let template = template().await;
        let database = Database::create(&format!("TEMPLATE {}", template.name)).await;
        let (pool, queue) = queue(database.options());
        Self {
            database,
            pool,
            queue,
            _template: template,
        }
    }

    async fn store(&self, event: JobEvent) {
        store(&self.queue, event).await;
    }

    /// Returns a queue of another process.
    fn other(&self) -> JobQueue {
        queue(self.database.options()).1
    }

    /// Returns the first page of dead letters.
    async fn letters(&self) -> LetterPage {
        let page = self.queue.dead_letters(&LetterFilter::new()).await;
        page.unwrap()
    }

    async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn rows(&self, such_that: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM apalis.jobs WHERE {such_that}");
        self.number(&sql).await
    }

    async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    /// Refuses changes of the rows of these events, as a constraint that is added later does. `names` is a pattern of `LIKE`.
    async fn refuse_changes(&self, names: &str) {
        let sql = format!(
            "ALTER TABLE apalis.jobs ADD CONSTRAINT refuse CHECK (idempotency_key NOT LIKE '{names}') NOT VALID"
        );
        self.execute(&sql).await;
    }

    /// Waits until this many rows are such.
    async fn until(&self, rows: i64, such_that: &str) {
        let start = Instant::now();
        loop {
            let found = self.rows(such_that).await;
            if found == rows {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{found} rows: {such_that}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn queue(options: PgConnectOptions) -> (PgPool, JobQueue) {
    let pool = pool(options);
    (pool.clone(), JobQueue::postgres(pool))
}

async fn store(queue: &JobQueue, event: JobEvent) {
    let receipt = queue.enqueue().oneshot(event).await;
    assert_eq!(receipt.unwrap(), Receipt::Queued);
}

fn event(guid: &str, status: Status) -> JobEvent {
    Job::new(guid.parse().unwrap(), status).into()
}

fn completed(guid: &str) -> JobEvent {
    event(guid, Status::Completed)
}

/// A worker with short times.
fn quick<J>(queue: &JobQueue, jobs: J) -> Worker<J> {
    let pause = Duration::from_millis(50);
    queue
        .worker(jobs)
        .with_backoff(pause, pause)
        .with_dead_after(DEAD_AFTER)
        .with_poll_interval(Duration::from_millis(100))
}

/// A worker that runs on a task.
struct Running {
    stop: Arc<Notify>,
    task: JoinHandle<Result<(), sqlx::Error>>,
}

impl Running {
    fn start<J: JobService>(worker: Worker<J>) -> Self {
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { worker.run_until(stopped.notified()).await });
        Self { stop, task }
    }

    fn shut_down(&self) {
        self.stop.notify_one();
    }

    async fn end(self) {
        self.shut_down();
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// A router whose COMPLETED events are logged by their guid.
fn logging(log: &Log) -> JobRouter {
    let log = log.clone();
    JobRouter::new().on_completed(move |event: JobEvent| {
        let log = log.clone();
        async move { log.push(event.guid.to_string()) }
    })
}

async fn until_logged(log: &Log, entries: usize) {
    let start = Instant::now();
    while log.entries().len() < entries {
        assert!(start.elapsed() < PATIENCE, "{:?}", log.entries());
        sleep(Duration::from_millis(5)).await;
    }
}

fn assert_counts(counts: QueueCounts, waiting: u64, running: u64, dead: u64) {
    let found = (counts.waiting, counts.running, counts.dead);
    assert_eq!(found, (waiting, running, dead));
}

/// A router whose callbacks take this long, and log their guid when they start.
fn slow(log: &Log, time: Duration) -> JobRouter {
    let log = log.clone();
    JobRouter::new().on_completed(move |event: JobEvent| {
        let log = log.clone();
        async move {
            log.push(event.guid.to_string());
            sleep(time).await;
        }
    })
}

/// A trigger that makes changes wait if this condition holds.
async fn sleeping_trigger(pool: &PgPool, when: &str, condition: &str, seconds: f64) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $f$ BEGIN IF {condition} THEN PERFORM pg_sleep({seconds}); END IF; RETURN NEW; END $f$;
         CREATE TRIGGER slow BEFORE {when} ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION slow()"
    );
    let execution = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
    execution.unwrap();
}

/// A router whose callbacks take this long, and log their guid when they start and when they end.
fn tracked(log: &Log, time: Duration) -> JobRouter {
    let log = log.clone();
    JobRouter::new().on_completed(move |event: JobEvent| {
        let log = log.clone();
        async move {
            log.push(format!("started {}", event.guid));
            sleep(time).await;
            log.push(format!("ended {}", event.guid));
        }
    })
}
