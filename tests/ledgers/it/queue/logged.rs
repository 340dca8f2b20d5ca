//! What the queue writes to the log, and what it never writes there.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use mx_job_webhook::{Job, JobEvent, JobRouter, Permanent, Status};
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::{
    Fixture, PATIENCE, Running, completed, logging, quick, sleeping_trigger, store, until_logged,
};
use crate::engines::postgres::{Postgres, Version};
use crate::proxy::{Network, Proxy};
use crate::support::Log;
use harness::servers::Folder;

/// The subscriber panics at a line that contains this.
pub(super) const PANICS: &str = "the subscriber panics";

/// All log lines at INFO and above, with all their fields.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// A subscriber of one thread would miss the lines of a place in the code that another thread has reached first.
    pub(super) fn of_all_tests() -> Self {
        static LINES: OnceLock<Lines> = OnceLock::new();
        let lines = LINES.get_or_init(|| {
            let lines = Lines::default();
            let registry = tracing_subscriber::registry().with(lines.clone());
            tracing::subscriber::set_global_default(registry).unwrap();
            lines
        });
        lines.clone()
    }

    /// Returns whether there is a line with all of these parts.
    pub(super) fn has(&self, parts: &[&str]) -> bool {
        let lines = self.0.lock().unwrap();
        lines
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// Returns how many lines have all of these parts.
    pub(super) fn count(&self, parts: &[&str]) -> usize {
        let lines = self.0.lock().unwrap();
        let matches = |line: &&String| parts.iter().all(|part| line.contains(part));
        lines.iter().filter(matches).count()
    }

    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if *meta.level() > tracing::Level::INFO {
            return;
        }
        let mut fields = Fields(format!("{} {}", meta.level(), meta.target()));
        event.record(&mut fields);
        assert!(!fields.0.contains(PANICS), "a subscriber that panics");
        self.0.lock().unwrap().push(fields.0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// "Credentials, user ids, bodies never reach a log": sqlx logs each slow statement at WARN, with its text, and the text
/// of `enqueue` contains the body.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_slow_statement_puts_no_body_into_the_log() {
    let fixture = Fixture::new().await;
    sleeping_trigger(&fixture.pool, "INSERT", "true", 1.2).await;
    // As an application connects: the other tests disable sqlx' log.
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let (_pool, queue) = super::queue(options.database(&fixture.database.name));
    let lines = Lines::of_all_tests();
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.user_guid = Some("USR-of-a-slow-statement".parse().unwrap());
    store(&queue, job.into()).await;
    let text = lines.text();
    assert!(!text.contains(&hex(b"USR-of-a-slow-statement")), "{text}");
}

/// Guide: the server's log shows no bodies with `log_parameter_max_length = 0`, also if it logs statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of PostgreSQL"]
async fn a_server_that_logs_statements_logs_no_body() {
    let start = || {
        let folder = Folder::new();
        let settings = [
            "fsync=off",
            "log_statement=all",
            "log_min_duration_statement=0",
            "log_parameter_max_length=0",
        ];
        let server = Postgres::primary(&folder, Version::V15, &settings);
        (folder, server)
    };
    let (_folder, server) = tokio::task::spawn_blocking(start).await.unwrap();
    let (_pool, queue) = super::queue(server.options());
    queue.migrate().await.unwrap();
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.user_guid = Some("USR-in-the-log".parse().unwrap());
    store(&queue, job.into()).await;
    let log = server.log();
    assert!(log.contains("mx-job-webhook enqueue"), "{log}");
    let line = log
        .lines()
        .find(|line| line.contains(&hex(b"USR-in-the-log")));
    assert_eq!(line, None);
}

/// `observability`: a worker has a line at "WARN if it cannot reach its queue".
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_starts_without_its_database_says_so() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    proxy.set(Network::Down);
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    let lines = Lines::of_all_tests();
    let worker = quick(&queue.named("unreachable"), JobRouter::new());
    worker
        .run_until(sleep(Duration::from_secs(7)))
        .await
        .unwrap();
    let line = ["a worker waits for its queue", "queue=\"unreachable\""];
    assert_eq!(lines.count(&line), 1);
}

/// The same for a worker that loses its database: one line for each outage.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_loses_its_database_says_so_once() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let options = fixture.database.options().host("127.0.0.1");
    let (_, queue) = super::queue(options.port(proxy.address.port()));
    let lines = Lines::of_all_tests();
    let line = ["a worker waits for its queue", "queue=\"lost\""];
    let worker = quick(&queue.named("lost"), JobRouter::new());
    let worker = Running::start(worker.with_dead_after(Duration::from_secs(1)));
    for outages in 0..2 {
        // A heartbeat arrives.
        let seen = "SELECT count(*) FROM apalis.workers WHERE last_seen > now() - interval '0.2 s'";
        let start = Instant::now();
        while fixture.number(seen).await == 0 {
            assert!(start.elapsed() < PATIENCE);
        }
        // Its answer arrives too.
        sleep(Duration::from_millis(100)).await;
        assert_eq!(lines.count(&line), outages);
        proxy.set(Network::Down);
        let start = Instant::now();
        while lines.count(&line) == outages {
            assert!(start.elapsed() < PATIENCE);
            sleep(Duration::from_millis(20)).await;
        }
        // Several heartbeats fail.
        sleep(Duration::from_secs(3)).await;
        assert_eq!(lines.count(&line), outages + 1);
        proxy.set(Network::Works);
    }
    worker.end().await;
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

/// Guide: "If they refuse to change a stored row […], its event waits. Workers log an error". A trigger of the statement refuses that
/// events are taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_can_take_no_event_logs_why() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE 'maintenance'; END $f$;
             CREATE TRIGGER frozen BEFORE UPDATE OF lock_at ON apalis.jobs FOR EACH STATEMENT EXECUTE FUNCTION frozen()",
        )
        .await;
    let queue = fixture.queue.clone().named("takes-none");
    store(&queue, completed("JOB-1")).await;
    let lines = Lines::of_all_tests();
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    sleep(Duration::from_secs(10)).await;
    worker.task.abort();
    assert!(log.entries().is_empty());
    assert!(lines.has(&["takes-none"]), "no line for 10 s");
}

/// The same for results.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_can_record_nothing_logs_why() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE 'maintenance'; END $f$;
             CREATE TRIGGER frozen BEFORE UPDATE OF run_at ON apalis.jobs FOR EACH STATEMENT EXECUTE FUNCTION frozen()",
        )
        .await;
    let queue = fixture.queue.clone().named("records-none");
    store(&queue, completed("JOB-1")).await;
    let lines = Lines::of_all_tests();
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    until_logged(&log, 1).await;
    sleep(Duration::from_secs(10)).await;
    worker.task.abort();
    assert!(lines.has(&["records-none"]), "no line for 10 s");
}

/// `observability`: "A worker has lines of its own: WARN if it cannot reach its queue". The table is locked for 40 s.
async fn a_locked_table_is_logged(name: &'static str, dead_after: u64, lock: &str) -> usize {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let queue = fixture.queue.clone().named(name);
    store(&queue, completed("JOB-1")).await;
    let mut transaction = fixture.pool.begin().await.unwrap();
    let log = Log::default();
    let worker = quick(&queue, logging(&log)).with_dead_after(Duration::from_secs(dead_after));
    let worker = Running::start(worker);
    until_logged(&log, 1).await;
    sleep(Duration::from_secs(1)).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock.to_owned()))
        .execute(&mut *transaction)
        .await
        .unwrap();
    sleep(Duration::from_secs(40)).await;
    let found = lines.count(&["a worker waits for its queue", name]);
    worker.task.abort();
    transaction.rollback().await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_table_is_locked_says_so_however_often_it_reports() {
    let lock = "LOCK TABLE apalis.jobs IN SHARE MODE";
    let (two, eight, thirty) = tokio::join!(
        a_locked_table_is_logged("locked-2", 2, lock),
        a_locked_table_is_logged("locked-8", 8, lock),
        a_locked_table_is_logged("locked-30", 30, lock),
    );
    assert!(
        two > 0 && eight > 0 && thirty > 0,
        "lines with dead_after of 2, 8, 30 s: {two}, {eight}, {thirty}"
    );
}
