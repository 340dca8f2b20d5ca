//! Promises of the durable queue, tested by breaking them.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::watch::{Failsafe, JobWatch, MemoryWatchStore};
use mx_job_webhook::{Credentials, Job, JobEvent, JobRouter, JobWebhook, Permanent, Status};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer as _, ServiceExt as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::{
    DEAD_AFTER, Fixture, PATIENCE, Running, completed, event, logging, quick, store, until_logged,
};
use crate::proxy::{Network, Proxy};
use crate::support::Log;

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
    fn count(&self, parts: &[&str]) -> usize {
        let lines = self.0.lock().unwrap();
        let matches = |line: &&String| parts.iter().all(|part| line.contains(part));
        lines.iter().filter(matches).count()
    }

    fn text(&self) -> String {
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

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A router whose callbacks take this long, and log their guid when they start.
pub(super) fn slow(log: &Log, time: Duration) -> JobRouter {
    let log = log.clone();
    JobRouter::new().on_completed(move |event: JobEvent| {
        let log = log.clone();
        async move {
            log.push(event.guid.to_string());
            sleep(time).await;
        }
    })
}

fn failing() -> JobRouter {
    JobRouter::new().on_completed(|_: JobEvent| async { Err::<(), _>(Permanent::new("no")) })
}

pub(super) async fn sleeping_trigger(fixture: &Fixture, when: &str, condition: &str, seconds: f64) {
    fixture
        .execute(&format!(
            "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN IF {condition} THEN PERFORM pg_sleep({seconds}); END IF; RETURN NEW; END $f$;
             CREATE TRIGGER slow BEFORE {when} ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION slow()"
        ))
        .await;
}

/// "Credentials, user ids, bodies never reach a log": sqlx logs each slow statement at WARN, with its text, and the text
/// of `enqueue` contains the body.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_slow_statement_puts_no_body_into_the_log() {
    let fixture = Fixture::new().await;
    sleeping_trigger(&fixture, "INSERT", "true", 1.2).await;
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

/// "If the whole database was away, no worker counts as dead before it has had as long to report again."
///
/// An outage is a little shorter than the silence. A worker that reported just before it does not take over the events
/// of one that reported a quarter of the time earlier.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_outage_that_is_shorter_than_the_silence_repeats_nothing() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let dead_after = Duration::from_secs(4);
    let log = Log::default();
    let mut workers = Vec::new();
    for number in 0..8 {
        let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
        fixture.store(completed(&format!("JOB-{number}"))).await;
        let jobs = slow(&log, Duration::from_secs(16));
        let worker = quick(&queue, jobs)
            .with_concurrency(1)
            .with_dead_after(dead_after);
        workers.push(Running::start(worker));
        until_logged(&log, number + 1).await;
        sleep(Duration::from_millis(90)).await;
    }
    sleep(dead_after + Duration::from_secs(1)).await;
    proxy.set(Network::Down);
    sleep(Duration::from_millis(3_200)).await;
    proxy.set(Network::Works);
    fixture.until(8, "status = 'Done'").await;
    for worker in workers {
        worker.end().await;
    }
    assert_eq!(fixture.rows("attempts = 1").await, 8, "{:?}", log.entries());
    assert_eq!(log.entries().len(), 8);
}

/// The settings of a role change nothing. With `bytea_output = 'escape'`, which some databases have for old clients, a
/// worker takes events and cannot read them, and they return to the queue for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_run_whatever_form_the_database_gives_to_bytes() {
    let fixture = Fixture::new().await;
    let name = &fixture.database.name;
    fixture
        .execute(&format!(
            "ALTER DATABASE {name} SET bytea_output = 'escape'"
        ))
        .await;
    let queue = fixture.other();
    store(&queue, completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    sleep(DEAD_AFTER * 3).await;
    assert_eq!(log.entries(), ["JOB-1"]);
    worker.end().await;
}

/// "A worker sends heartbeats to the database while callbacks run": also while many events are stored. Heartbeats and
/// stored events wait for the same connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_flood_of_stored_events_lets_no_worker_count_as_dead() {
    let fixture = Fixture::new().await;
    let dead_after = Duration::from_secs(6);
    let log = Log::default();
    fixture.store(completed("JOB-first")).await;
    let busy = Running::start(
        quick(&fixture.queue, slow(&log, Duration::from_secs(24)))
            .with_concurrency(1)
            .with_dead_after(dead_after),
    );
    until_logged(&log, 1).await;
    let other = fixture.other();
    let idle = Running::start(
        quick(&other, logging(&log))
            .with_concurrency(1)
            .with_dead_after(dead_after),
    );
    // Twenty milliseconds a statement, as with a synchronous standby far away, and 4 connections.
    sleeping_trigger(&fixture, "INSERT", "true", 0.02).await;
    let flood: Vec<_> = (0..3_000)
        .map(|task| {
            let queue = fixture.queue.clone();
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let event = event(&format!("FLOOD-{task}-{number}"), Status::Denied);
                    let _ = queue.enqueue().oneshot(event).await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(21) {
        sleep(Duration::from_millis(250)).await;
        let runs = log.entries();
        let runs = runs.iter().filter(|guid| *guid == "JOB-first").count();
        assert_eq!(runs, 1, "it runs twice after {:?}", start.elapsed());
    }
    for task in flood {
        task.abort();
    }
    drop((busy, idle));
}

/// "A callback runs at least once, whichever process dies." A process dies while its worker takes an event. The event
/// becomes a dead letter of one try, and no callback has seen it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_process_dies_while_it_is_taken_runs_at_least_once() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    sleeping_trigger(&fixture, "UPDATE", "NEW.status = 'Running'", 1.0).await;
    let log = Log::default();
    let process = tokio::runtime::Runtime::new().unwrap();
    let (options, jobs) = (fixture.database.options(), logging(&log));
    process.spawn(async move {
        let (_, queue) = super::queue(options);
        let worker = quick(&queue, jobs).with_tries(1);
        worker.run_until(std::future::pending::<()>()).await
    });
    sleep(Duration::from_millis(500)).await;
    process.shutdown_background();
    sleep(Duration::from_secs(1)).await;
    fixture.execute("DROP TRIGGER slow ON apalis.jobs").await;
    let worker = Running::start(quick(&fixture.other(), logging(&log)).with_tries(1));
    fixture.until(1, "status IN ('Done', 'Failed')").await;
    worker.end().await;
    let dead = fixture
        .queue
        .dead_letters(&LetterFilter::new())
        .await
        .unwrap();
    assert_eq!(log.entries(), ["JOB-1"], "{:?}", dead.letters());
}

/// "Several queues can share a database."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_that_one_queue_keeps_is_not_replayed_into_another() {
    let fixture = Fixture::new().await;
    let one = fixture.queue.clone().named("one");
    let other = fixture.queue.clone().named("other");
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), one.enqueue())
        .on_undecodable(one.keep_undecodable());
    let request = http::Request::post("/")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(r#"{"job": {"guid": 1}}"#)))
        .unwrap();
    let response = webhooks.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 204);
    let letters = other.dead_letters(&LetterFilter::new()).await.unwrap();
    assert_eq!(letters.letters().len(), 0, "{letters:?}");
}

/// `Letter::first_failed_at`: "For one of its events, it is when the event was stored, by the clock of the process that
/// stored it."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_says_when_its_event_was_stored() {
    let fixture = Fixture::new().await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now().as_millis();
    fixture.store(completed("JOB-1")).await;
    let after = now().as_millis();
    sleep(Duration::from_millis(1_500)).await;
    let worker = Running::start(quick(&fixture.queue, failing()));
    fixture.until(1, "status = 'Killed'").await;
    worker.end().await;
    let page = fixture
        .queue
        .dead_letters(&LetterFilter::new())
        .await
        .unwrap();
    let letter = &page.letters()[0];
    let stored = letter.first_failed_at();
    let millis = stored.unix_seconds() * 1_000 + i64::from(stored.subsec_nanos()) / 1_000_000;
    let millis = u128::try_from(millis).unwrap();
    assert!((before..=after).contains(&millis), "{letter:?}");
    assert!(letter.failed_at() > stored);
}

/// `Letter::status`: "Returns `None` too if the status is none of MX's and longer than 200 bytes." The key of such an
/// event has a digest in place of status and version, and words of the guid are taken for the status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_word_of_a_guid_is_not_taken_for_the_status() {
    let fixture = Fixture::new().await;
    let long = Status::from("X".repeat(300).as_str());
    fixture.store(event("JOB COMPLETED", long.clone())).await;
    fixture
        .execute("UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"no\"}'")
        .await;
    let chosen = LetterFilter::new().with_status(Status::Completed);
    let completed = fixture.queue.dead_letters(&chosen).await.unwrap();
    let page = fixture
        .queue
        .dead_letters(&LetterFilter::new())
        .await
        .unwrap();
    let letter = &page.letters()[0];
    let guid = letter.guid().map(ToString::to_string);
    let found = (
        letter.status().cloned(),
        guid.as_deref(),
        completed.letters().len(),
    );
    assert_eq!(found, (None, Some("JOB COMPLETED"), 0));
}

/// The same for an ordinary guid: the filter on its status finds the letter in `PostgresDeadLetters`, and here it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_with_a_long_status_is_found_by_it() {
    let fixture = Fixture::new().await;
    let long = Status::from("X".repeat(300).as_str());
    fixture.store(event("JOB-1", long.clone())).await;
    fixture
        .execute("UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"no\"}'")
        .await;
    let page = fixture
        .queue
        .dead_letters(&LetterFilter::new())
        .await
        .unwrap();
    assert_eq!(page.letters()[0].status(), None);
    let chosen = LetterFilter::new().with_status(long);
    let found = fixture.queue.dead_letters(&chosen).await.unwrap();
    assert_eq!(found.letters().len(), 1);
}

/// A filter with a text that no error contains finds nothing, as in `PostgresDeadLetters`.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_filter_with_a_nul_finds_nothing() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"no\"}'")
        .await;
    let filter = LetterFilter::new().with_error_containing("a\0b");
    let page = fixture.queue.dead_letters(&filter).await;
    assert_eq!(page.unwrap().letters().len(), 0);
    let replayed = fixture.queue.replay_all(&filter).await;
    assert_eq!(replayed.unwrap().succeeded(), 0);
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

/// `observability`: "ERROR with the event's name for an event that has failed for the last time".
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_dead_letter_of_a_dead_worker_is_logged() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    fixture.store(completed("JOB-of-a-dead-worker")).await;
    let other = Running::start(quick(&fixture.queue, JobRouter::new()));
    other.end().await;
    fixture
        .execute(
            "UPDATE apalis.workers SET last_seen = now() - interval '1 hour';
             UPDATE apalis.jobs SET status = 'Running', attempts = 2, max_attempts = 3, lock_at = now(), done_at = NULL,
                 lock_by = (SELECT id FROM apalis.workers LIMIT 1)",
        )
        .await;
    let worker = Running::start(quick(&fixture.queue, JobRouter::new()));
    fixture.until(1, "status = 'Failed' AND attempts = 3").await;
    sleep(Duration::from_millis(300)).await;
    worker.end().await;
    assert!(lines.has(&["is a dead letter", "JOB-of-a-dead-worker COMPLETED"]));
}

/// `replay`: "Returns whether there was one." The answer of the server is lost, and the statement is repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replay_whose_answer_is_lost_does_not_say_that_there_was_no_letter() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    store(&queue, completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"no\"}'")
        .await;
    let page = fixture
        .queue
        .dead_letters(&LetterFilter::new())
        .await
        .unwrap();
    let name = page.letters()[0].name();
    proxy.set(Network::LosesOneAnswer);
    let replayed = queue.replay(name).await;
    assert!(!matches!(replayed, Ok(false)), "{replayed:?}");
    assert!(queue.replay(name).await.is_ok());
    assert_eq!(fixture.rows("status = 'Pending'").await, 1);
}

/// "Events start in the order in which they were stored": also those of one fetch.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_of_one_fetch_start_in_order() {
    let fixture = Fixture::new().await;
    let mut expected = Vec::new();
    for number in 0..60 {
        let guid = format!("JOB-{number:03}");
        fixture.store(completed(&guid)).await;
        expected.push(guid);
    }
    // A replay in another order than that of the table.
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Killed', last_result = '{\"Err\": \"no\"}',
                 done_at = now() - interval '1 minute' * substr(idempotency_key, 5, 3)::int",
        )
        .await;
    fixture.execute("VACUUM ANALYZE apalis.jobs").await;
    fixture
        .queue
        .replay_all(&LetterFilter::new())
        .await
        .unwrap();
    fixture.execute("VACUUM ANALYZE apalis.jobs").await;
    expected.reverse();
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(64));
    until_logged(&log, 60).await;
    worker.end().await;
    assert_eq!(log.entries(), expected);
}

/// "It therefore works even if callbacks hold all connections of the pool."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn dead_letters_are_seen_while_callbacks_hold_all_connections() {
    let fixture = Fixture::new().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(3))
        .connect_lazy_with(fixture.database.options());
    let queue = JobQueue::postgres(pool.clone());
    let _held = pool.acquire().await.unwrap();
    store(&queue, completed("JOB-1")).await;
    let page = queue.dead_letters(&LetterFilter::new()).await;
    assert!(page.is_ok(), "{page:?}");
}

/// `with_max_connections`: "Sets how many connections the queue opens at most." A table is locked, and the server keeps
/// a session for each statement that has timed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_locked_table_does_not_use_up_the_servers_connections() {
    let fixture = Fixture::new().await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let queue = fixture.queue.clone();
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let _ = queue
                        .enqueue()
                        .oneshot(completed(&format!("JOB-{task}-{number}")))
                        .await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    let mut most = 0;
    while start.elapsed() < Duration::from_secs(18) {
        sleep(Duration::from_millis(500)).await;
        let sessions = fixture
            .number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%/* mx-job-webhook%' AND pid <> pg_backend_pid()")
            .await;
        most = most.max(sessions);
    }
    for task in tasks {
        task.abort();
    }
    lock.rollback().await.unwrap();
    assert!(most <= 4, "{most} sessions");
}

/// "Heartbeats do not wait for anything else", such as a count of a large table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_slow_count_lets_no_worker_count_as_dead() {
    let fixture = Fixture::new().await;
    let role = format!("app_{}", fixture.database.name);
    // Reads of the table take two seconds in the statement that counts, as if the table were large.
    fixture
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA apalis TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers TO {role};
             CREATE FUNCTION as_if_large() RETURNS boolean LANGUAGE plpgsql STABLE AS
                 $f$ BEGIN IF current_query() LIKE '%/* mx-job-webhook counts%' THEN PERFORM pg_sleep(1); END IF;
                 RETURN true; END $f$;
             ALTER TABLE apalis.jobs ENABLE ROW LEVEL SECURITY;
             CREATE POLICY large ON apalis.jobs USING (as_if_large())"
        ))
        .await;
    let limited = || super::queue(fixture.database.options().username(&role)).1;
    let log = Log::default();
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET run_at = now() + interval '1 hour'")
        .await;
    let idle = Running::start(quick(&limited(), slow(&log, Duration::from_secs(16))));
    sleep(Duration::from_millis(500)).await;
    let slow_log = Log::default();
    let busy = Running::start(quick(&limited(), slow(&slow_log, Duration::from_secs(16))));
    sleep(DEAD_AFTER * 3).await;
    // The next count of each is ten seconds after the first.
    fixture
        .execute("UPDATE apalis.jobs SET run_at = now()")
        .await;
    sleep(Duration::from_secs(14)).await;
    let runs = log.entries().len() + slow_log.entries().len();
    let attempts = fixture
        .number("SELECT max(attempts)::bigint FROM apalis.jobs")
        .await;
    fixture
        .execute(
            "DROP POLICY large ON apalis.jobs; ALTER TABLE apalis.jobs DISABLE ROW LEVEL SECURITY",
        )
        .await;
    busy.shut_down();
    idle.shut_down();
    sleep(Duration::from_millis(300)).await;
    let _ = sqlx::raw_sql(AssertSqlSafe(format!(
        "DROP OWNED BY {role}; DROP ROLE {role}"
    )))
    .execute(&fixture.pool)
    .await;
    assert_eq!((runs, attempts), (1, 0));
}

/// Guide: "The job stays expected until a worker has handled the event, or the limit of the failsafe has passed." A worker
/// starts after four seconds. Returns the jobs that were given up, and whether the job was heard of.
async fn after_a_wait_in_the_queue(limit: Duration) -> (Vec<String>, bool) {
    let fixture = Fixture::new().await;
    let watch = JobWatch::new(MemoryWatchStore::new()).with_patience(Duration::from_millis(100));
    let given_up = Log::default();
    let log = given_up.clone();
    let read = |job: mx_job_webhook::job::JobGuid| async move {
        Ok::<_, BoxError>(completed(job.as_str()))
    };
    let failsafe = Failsafe::new(&watch, fixture.queue.enqueue(), read)
        .with_pauses(Duration::from_millis(200), Duration::from_millis(200))
        .with_limit(limit)
        .on_given_up(move |given_up| {
            let log = log.clone();
            async move { log.push(given_up.job().to_string()) }
        });
    let expected = watch.expect(&"JOB-1".parse().unwrap()).await.unwrap();
    let jobs = watch.layer().layer(logging(&Log::default()));
    let heard = async {
        sleep(Duration::from_secs(4)).await;
        // It was stored, and read again, under one name.
        assert_eq!(fixture.rows("status = 'Pending'").await, 1);
        let worker = Running::start(quick(&fixture.queue, jobs));
        fixture.until(1, "status = 'Done'").await;
        worker.end().await;
        expected.within(Duration::from_millis(500)).await
    };
    let stop = Notify::new();
    let heard = async {
        let heard = heard.await;
        stop.notify_one();
        heard
    };
    let ((), heard) = tokio::join!(failsafe.run_until(stop.notified()), heard);
    (given_up.entries(), heard.unwrap().is_some())
}

/// `Failsafe::with_limit`: "If the failsafe stores events in a queue, the limit has to be longer than the queue's tries."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_job_whose_event_waits_in_the_queue_is_given_up_once_the_limit_has_passed() {
    let short = Duration::from_millis(1_500);
    let (given_up, _) = after_a_wait_in_the_queue(short).await;
    assert_eq!(given_up, ["JOB-1"]);
    let long = Duration::from_secs(60);
    let (given_up, is_heard) = after_a_wait_in_the_queue(long).await;
    assert!(given_up.is_empty(), "{given_up:?}");
    assert!(is_heard);
}

/// "The fencing token of the later run is larger": `FencingToken` says "a later claim has a larger token".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_fencing_tokens_of_an_event_increase_after_a_discard() {
    let fixture = Fixture::new().await;
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = tokens.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        seen.lock()
            .unwrap()
            .push(event.fencing_token().unwrap().get());
        async { Err::<(), BoxError>("no".into()) }
    });
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(2));
    for _ in 0..2 {
        fixture.store(completed("JOB-1")).await;
        fixture.until(1, "status = 'Failed' AND attempts = 2").await;
        let page = fixture
            .queue
            .dead_letters(&LetterFilter::new())
            .await
            .unwrap();
        assert!(
            fixture
                .queue
                .discard(page.letters()[0].name())
                .await
                .unwrap()
        );
    }
    worker.end().await;
    let tokens = tokens.lock().unwrap().clone();
    assert!(tokens.is_sorted_by(|one, other| one < other), "{tokens:?}");
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

/// `with_backoff`: "The pauses double". A worker with fewer tries runs an event of one with more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn pauses_double_although_the_number_of_tries_was_changed() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    let jobs =
        || JobRouter::new().on_completed(|_: JobEvent| async { Err::<(), BoxError>("no".into()) });
    let longest = Duration::from_secs(60);
    let first = Running::start(
        quick(&fixture.queue, jobs())
            .with_tries(12)
            .with_backoff(Duration::from_millis(100), longest),
    );
    fixture.until(1, "status = 'Failed'").await;
    first.end().await;
    let after_a_deployment = Running::start(
        quick(&fixture.queue, jobs())
            .with_tries(3)
            .with_backoff(Duration::from_millis(100), longest),
    );
    fixture.until(1, "status = 'Failed' AND attempts = 5").await;
    let row = sqlx::query(
        "SELECT (extract(epoch FROM run_at - done_at) * 1000)::bigint FROM apalis.jobs",
    )
    .fetch_one(&fixture.pool)
    .await
    .unwrap();
    let pause: i64 = row.get(0);
    after_a_deployment.end().await;
    // 1.6 s, shortened by up to a half.
    assert!(pause >= 800, "{pause} ms");
}

/// Guide: "Further deliveries of the event change nothing, also while it runs", and `enqueue`: the answer is 204.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_second_delivery_is_acknowledged_while_a_transaction_ends_the_event() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    let log = Log::default();
    let (pool, queue, entered) = (fixture.pool.clone(), fixture.queue.clone(), log.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue, entered) = (pool.clone(), queue.clone(), entered.clone());
        async move {
            let mut transaction = pool.begin().await?;
            queue.commit_in(&mut transaction, &event).await?;
            entered.push(format!("try {}", Try::of(&event).unwrap().number()));
            sleep(Duration::from_secs(8)).await;
            transaction.commit().await?;
            Ok::<(), BoxError>(())
        }
    });
    let worker = Running::start(quick(&fixture.queue, jobs));
    until_logged(&log, 1).await;
    let second = fixture.queue.enqueue().oneshot(completed("JOB-1")).await;
    worker.end().await;
    assert!(second.is_ok(), "{:#}", second.unwrap_err());
}

/// A worker whose connection is delayed does not return its own events to the queue while it runs them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_does_not_run_its_own_events_twice() {
    let fixture = Fixture::new().await;
    let queue = fixture.queue.clone().with_max_connections(1);
    let log = Log::default();
    let worker = Running::start(
        quick(&queue, slow(&log, PATIENCE))
            .with_concurrency(200)
            .with_dead_after(Duration::from_secs(1)),
    );
    sleep(Duration::from_millis(300)).await;
    sleeping_trigger(&fixture, "INSERT", "true", 0.15).await;
    // Fourteen deliveries at a time share the only connection with the worker.
    let stores: Vec<_> = (0..14)
        .map(|task| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let event = completed(&format!("JOB-{task}-{number}"));
                    let _ = queue.enqueue().oneshot(event).await;
                }
            })
        })
        .collect();
    sleep(Duration::from_secs(20)).await;
    for store in stores {
        store.abort();
    }
    let mut runs = log.entries();
    let all = runs.len();
    runs.sort();
    runs.dedup();
    drop(worker);
    assert_eq!(all, runs.len(), "some events run twice at the same time");
}
