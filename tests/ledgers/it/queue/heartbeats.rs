//! Workers that live: nothing lets them count as dead.

use std::time::Duration;

use mx_job_webhook::Status;
use mx_job_webhook::queue::JobQueue;
use sqlx::AssertSqlSafe;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use super::refused::{logged_within, orphans};
use super::{
    DEAD_AFTER, Fixture, PATIENCE, Running, completed, event, logging, quick, sleeping_trigger,
    slow, store, tracked, until_logged,
};
use crate::proxy::{Network, Proxy};
use crate::support::Log;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_with_slow_callbacks_does_not_count_as_dead() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    for number in 0..6 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let time = DEAD_AFTER * 2;
    let one = Running::start(quick(&fixture.queue, tracked(&log, time)));
    let other = Running::start(quick(&fixture.other(), tracked(&log, time)));
    fixture.until(6, "status = 'Done' AND attempts = 1").await;
    one.end().await;
    other.end().await;
    assert_eq!(log.entries().len(), 12);
}

/// An outage that is longer than a worker may be silent repeats nothing if it concerns all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_outage_of_the_database_during_callbacks_repeats_nothing() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let through = || {
        let options = fixture.database.options();
        super::queue(options.port(proxy.address.port())).1
    };
    let log = Log::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Running::start(
            quick(&through(), tracked(&log, DEAD_AFTER * 2)).with_concurrency(2),
        ));
    }
    for number in 0..6 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    until_logged(&log, 6).await;
    proxy.set(Network::Down);
    // The first three end while the database is away.
    sleep(DEAD_AFTER * 3).await;
    until_logged(&log, 12).await;
    proxy.set(Network::Works);
    fixture.until(6, "status = 'Done' AND attempts = 1").await;
    for worker in workers {
        worker.end().await;
    }
    assert_eq!(log.entries().len(), 12);
}

/// Heartbeats that wait in the database, or in a pooler, are answered one after the other when it continues. The first
/// one comes before the others have had a chance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_stall_of_the_database_during_callbacks_repeats_nothing() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Running::start(
            quick(&fixture.other(), tracked(&log, DEAD_AFTER * 4)).with_concurrency(2),
        ));
    }
    for number in 0..6 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    until_logged(&log, 6).await;
    // Long enough to have the right to take over.
    sleep(DEAD_AFTER * 3 / 2).await;
    let mut stall = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.workers IN EXCLUSIVE MODE")
        .execute(&mut *stall)
        .await
        .unwrap();
    sleep(DEAD_AFTER * 3 / 2).await;
    stall.rollback().await.unwrap();
    fixture.until(6, "status = 'Done' AND attempts = 1").await;
    for worker in workers {
        worker.end().await;
    }
    assert_eq!(log.entries().len(), 12);
}

/// Workers behind a proxy, each of which runs one event.
struct Proxied {
    fixture: Fixture,
    proxy: Proxy,
    log: Log,
    workers: Vec<(JobQueue, Running)>,
}

impl Proxied {
    /// Starts them one after the other. Their callbacks take this long.
    async fn start(workers: usize, dead_after: Duration, time: Duration) -> Self {
        let fixture = Fixture::new().await;
        let proxy = Proxy::to(fixture.database.server()).await;
        let mut this = Self {
            fixture,
            proxy,
            log: Log::default(),
            workers: Vec::new(),
        };
        for number in 0..workers {
            let options = this.fixture.database.options();
            let (_, queue) = super::queue(options.port(this.proxy.address.port()));
            this.fixture
                .store(completed(&format!("JOB-{number}")))
                .await;
            let worker = quick(&queue, slow(&this.log, time))
                .with_concurrency(1)
                .with_dead_after(dead_after);
            this.workers.push((queue, Running::start(worker)));
            until_logged(&this.log, number + 1).await;
            sleep(Duration::from_millis(90)).await;
        }
        this
    }

    /// Waits until all events are done, each of which has run once.
    async fn end(self) {
        let events = self.workers.len();
        let rows = i64::try_from(events).unwrap();
        self.fixture.until(rows, "status = 'Done'").await;
        for (_, worker) in self.workers {
            worker.end().await;
        }
        let log = self.log.entries();
        assert_eq!(self.fixture.rows("attempts = 1").await, rows, "{log:?}");
        assert_eq!(log.len(), events);
    }
}

/// "If the whole database was away, no worker counts as dead before it has had as long to report again."
///
/// An outage is a little shorter than the silence. A worker that reported just before it does not take over the events
/// of one that reported a quarter of the time earlier.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_outage_that_is_shorter_than_the_silence_repeats_nothing() {
    let dead_after = Duration::from_secs(4);
    let workers = Proxied::start(8, dead_after, Duration::from_secs(16)).await;
    sleep(dead_after + Duration::from_secs(1)).await;
    workers.proxy.set(Network::Down);
    sleep(Duration::from_millis(3_200)).await;
    workers.proxy.set(Network::Works);
    workers.end().await;
}

/// "If the whole database was away, no worker counts as dead before it has had as long to report again." While a network
/// hangs, each worker gives up several heartbeats, and all of them arrive at once when it continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn heartbeats_that_were_given_up_take_over_nothing() {
    let dead_after = Duration::from_secs(4);
    let workers = Proxied::start(8, dead_after, Duration::from_secs(30)).await;
    for (number, (queue, _)) in workers.workers.iter().enumerate() {
        // All of its connections are open.
        let opening = (0..16).map(|other| {
            let (queue, guid) = (queue.clone(), format!("OTHER-{number}-{other}"));
            tokio::spawn(async move { store(&queue, event(&guid, "DENIED".into())).await })
        });
        for opened in opening.collect::<Vec<_>>() {
            opened.await.unwrap();
        }
    }
    let others = "DELETE FROM apalis.jobs WHERE idempotency_key LIKE 'OTHER%'";
    workers.fixture.execute(others).await;
    sleep(dead_after * 3 / 2).await;
    workers.proxy.set(Network::Hangs);
    sleep(Duration::from_secs(13)).await;
    workers.proxy.set(Network::Works);
    workers.end().await;
}

/// "A worker sends heartbeats to the database while callbacks run": an event that it takes while a heartbeat waits for a
/// lock, such as that of a new index, does not look unknown to that heartbeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_heartbeat_that_waited_returns_no_event_that_was_taken_meanwhile() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let worker = Running::start(
        quick(&fixture.queue, slow(&log, Duration::from_secs(8)))
            .with_dead_after(Duration::from_secs(1)),
    );
    sleep(Duration::from_secs(1)).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.workers IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    sleep(Duration::from_millis(500)).await;
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    sleep(Duration::from_millis(2_500)).await;
    lock.rollback().await.unwrap();
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;
    assert_eq!(log.entries(), ["JOB-1"]);
    assert_eq!(fixture.rows("attempts = 1").await, 1);
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
    sleeping_trigger(&fixture.pool, "INSERT", "true", 0.02).await;
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
    sleeping_trigger(&fixture.pool, "INSERT", "true", 0.15).await;
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

/// Polls a future a few times, until it waits for the server.
async fn begin<F: Future>(future: &mut std::pin::Pin<Box<F>>) {
    let begun = timeout(Duration::from_millis(300), future.as_mut()).await;
    assert!(begun.is_err());
}

/// `Worker`: "A worker sends heartbeats to the database while callbacks run." The application has begun as many calls of the
/// queue as there are connections, and does not poll them for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn calls_that_are_not_polled_stop_no_heartbeat() {
    let fixture = Fixture::new().await;
    store(&fixture.queue, completed("JOB-1")).await;
    let (log, other) = (Log::default(), Log::default());
    let worker = Running::start(quick(&fixture.queue, slow(&log, Duration::from_secs(12))));
    until_logged(&log, 1).await;
    let second = Running::start(quick(&fixture.other(), logging(&other)));
    sleep(DEAD_AFTER * 2).await;
    assert!(other.entries().is_empty());
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE mx_job_webhook_dead_letters, apalis.jobs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut held: Vec<_> = (0..4).map(|_| Box::pin(fixture.queue.counts())).collect();
    for call in &mut held {
        begin(call).await;
    }
    lock.rollback().await.unwrap();
    sleep(DEAD_AFTER * 4).await;
    let ran = other.entries().len();
    drop(held);
    second.end().await;
    worker.shut_down();
    assert_eq!(ran, 0);
}

/// Guide: "If they refuse to change a stored row […], its event waits". Others take over the other events
/// of its worker, and count as alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_cannot_be_taken_over_keeps_no_other_one() {
    let fixture = Fixture::new().await;
    for number in 0..8 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let log = Log::default();
    let process = Runtime::new().unwrap();
    for _ in 0..2 {
        let jobs = slow(&log, Duration::from_secs(600));
        let options = fixture.database.options();
        process.spawn(async move {
            let (_, queue) = super::queue(options);
            let worker = quick(&queue, jobs).with_concurrency(4);
            worker.run_until(std::future::pending::<()>()).await
        });
    }
    until_logged(&log, 8).await;
    process.shutdown_background();
    fixture.refuse_changes("JOB-7 %").await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.other(), logging(&log)));
    fixture.until(7, "status = 'Done' AND attempts = 2").await;
    sleep(DEAD_AFTER).await;
    let alive = "SELECT count(*) FROM apalis.workers WHERE last_seen > now() - interval '1 second'";
    assert_eq!(fixture.number(alive).await, 1);
    worker.end().await;
    // Another worker starts after the mend.
    fixture
        .execute("ALTER TABLE apalis.jobs DROP CONSTRAINT refuse")
        .await;
    let worker = Running::start(quick(&fixture.other(), logging(&log)));
    fixture.until(8, "status = 'Done' AND attempts = 2").await;
    worker.end().await;
}

/// Guide: "After 30 s of silence (`with_dead_after`), others take its events over. They look every 7.5 s, so its events run
/// again 30 to 40 s after its death." With 64 callbacks, after an outage of the database. Scaled: 12 to 15 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_outage_slows_no_later_take_over() {
    const DEAD_AFTER: Duration = Duration::from_secs(12);
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    let log = Log::default();
    let worker = quick(&queue, logging(&log))
        .with_concurrency(64)
        .with_dead_after(DEAD_AFTER);
    let worker = Running::start(worker);
    sleep(Duration::from_secs(4)).await;
    proxy.set(Network::Down);
    sleep(Duration::from_secs(8)).await;
    proxy.set(Network::Works);
    // Long enough to have the right to take over again.
    sleep(DEAD_AFTER * 3 / 2).await;
    let guids: Vec<_> = (0..64).map(|number| format!("JOB-{number}")).collect();
    let mut transaction = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
         VALUES ('dead', 'mx-jobs', 'mx-job-webhook', '', now() - interval '1 hour', now() - interval '1 hour')",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    for (number, guid) in guids.iter().enumerate() {
        let body = format!(
            r#"{{"job": {{"guid": "{guid}", "job_guid": "{guid}", "status": "COMPLETED"}}}}"#
        );
        sqlx::query(
            "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key, lock_by, lock_at)
             VALUES ($1, 'mx-jobs', $2, 'Running', 0, 12, now(), 0, $3, 'dead', now() - interval '1 hour')",
        )
        .bind(format!("id-{number}"))
        .bind(body.as_bytes())
        .bind(format!("{guid} COMPLETED -"))
        .execute(&mut *transaction)
        .await
        .unwrap();
    }
    transaction.commit().await.unwrap();
    let start = Instant::now();
    let mut seen = Vec::new();
    while fixture.rows("lock_by = 'dead'").await > 0 && start.elapsed() < 2 * PATIENCE {
        sleep(Duration::from_millis(500)).await;
        seen.push(fixture.rows("lock_by = 'dead'").await);
    }
    let after = start.elapsed();
    worker.task.abort();
    assert!(
        after < DEAD_AFTER * 3 / 4,
        "they were taken over after {after:?}: {seen:?}"
    );
}

/// Guide: "After 30 s of silence (`with_dead_after`), others take its events over." The least is a second. A heartbeat takes 0.3 s, as with
/// a distant synchronous standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_of_a_dead_worker_run_with_the_shortest_silence_and_slow_heartbeats() {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-1".to_owned()]).await;
    fixture
        .execute(
            "CREATE FUNCTION slow_beat() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $f$;
             CREATE TRIGGER slow_beat BEFORE UPDATE ON apalis.workers FOR EACH ROW EXECUTE FUNCTION slow_beat()",
        )
        .await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(1));
    let worker = Running::start(worker);
    let ran = logged_within(&log, 1, PATIENCE).await;
    worker.task.abort();
    assert!(ran, "JOB-1 did not run for 30 s");
}

/// Senders that keep connections of the queue busy: storing one of their events takes this long.
async fn senders(
    fixture: &Fixture,
    queue: &JobQueue,
    senders: usize,
    seconds: f64,
) -> Vec<JoinHandle<()>> {
    let condition = "NEW.idempotency_key LIKE 'BUSY%'";
    sleeping_trigger(&fixture.pool, "INSERT", condition, seconds).await;
    let sender = |sender: usize| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let guid = format!("BUSY-{sender}-{number}");
                let _ = queue.enqueue().oneshot(event(&guid, "DENIED".into())).await;
            }
        })
    };
    (0..senders).map(sender).collect()
}

/// Docs: one connection "is reserved for the heartbeats of workers", so a worker that lives does not count as dead while its queue is busy.
/// The server has no further connection for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_busy_worker_lives_while_the_server_is_full() {
    let fixture = Fixture::new().await;
    let role = format!("app_{}", fixture.database.name);
    fixture
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA apalis TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers TO {role}"
        ))
        .await;
    let (_pool, queue) = super::queue(fixture.database.options().username(&role));
    let log = Log::default();
    let jobs = || slow(&log, 2 * PATIENCE);
    let dead_after = Duration::from_secs(8);
    let one = quick(&queue, jobs())
        .with_concurrency(1)
        .with_dead_after(dead_after);
    let one = Running::start(one);
    store(&queue, completed("JOB-1")).await;
    until_logged(&log, 1).await;
    let other = quick(&fixture.other(), jobs()).with_dead_after(dead_after);
    let other = Running::start(other);
    // It has two connections or three now.
    fixture
        .execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 3"))
        .await;
    let busy = senders(&fixture, &queue, 3, 2.0).await;
    sleep(Duration::from_secs(45)).await;
    let attempts = fixture
        .rows("idempotency_key LIKE 'JOB-1 %' AND attempts > 0")
        .await;
    one.task.abort();
    other.task.abort();
    busy.iter().for_each(JoinHandle::abort);
    sleep(Duration::from_millis(500)).await;
    let _ = sqlx::raw_sql(AssertSqlSafe(format!("DROP OWNED BY {role} CASCADE")))
        .execute(&fixture.pool)
        .await;
    assert_eq!(
        (log.entries().len(), attempts),
        (1, 0),
        "JOB-1 was taken over from a worker that lives"
    );
}

/// "no worker counts as dead before it has had as long to report again". One is back a moment before the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_is_back_first_after_an_outage_takes_over_nothing() {
    let fixture = Fixture::new().await;
    let dead_after = Duration::from_secs(4);
    let proxies = [
        Proxy::to(fixture.database.server()).await,
        Proxy::to(fixture.database.server()).await,
    ];
    let log = Log::default();
    let start = |proxy: &Proxy, time| {
        let options = fixture.database.options();
        let (_, queue) = super::queue(options.port(proxy.address.port()));
        Running::start(quick(&queue, tracked(&log, time)).with_dead_after(dead_after))
    };
    let busy = start(&proxies[0], dead_after * 5);
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    let other = start(&proxies[1], Duration::ZERO);
    // Long enough to have the right to take over.
    sleep(dead_after * 3 / 2).await;
    for proxy in &proxies {
        proxy.set(Network::Hangs);
    }
    sleep(dead_after * 3 / 2).await;
    proxies[1].set(Network::Works);
    sleep(dead_after / 2).await;
    proxies[0].set(Network::Works);
    fixture.until(1, "status = 'Done' AND attempts = 1").await;
    busy.end().await;
    other.end().await;
    assert_eq!(log.entries(), ["started JOB-1", "ended JOB-1"]);
}

/// The connection for heartbeats is closed, and the server is full. Heartbeats use another one of the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_connection_for_heartbeats_is_gone_lives_while_the_server_is_full() {
    let fixture = Fixture::new().await;
    let role = format!("beats_{}", fixture.database.name);
    fixture
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA apalis TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers TO {role}"
        ))
        .await;
    let (_pool, queue) = super::queue(fixture.database.options().username(&role));
    let log = Log::default();
    let jobs = || slow(&log, 2 * PATIENCE);
    let dead_after = Duration::from_secs(4);
    let one = Running::start(quick(&queue, jobs()).with_dead_after(dead_after));
    store(&queue, completed("JOB-1")).await;
    until_logged(&log, 1).await;
    let other = Running::start(quick(&fixture.other(), jobs()).with_dead_after(dead_after));
    let sessions = format!("FROM pg_stat_activity WHERE usename = '{role}'");
    let open = fixture.number(&format!("SELECT count(*) {sessions}")).await;
    assert!(open >= 2, "{open}");
    fixture
        .execute(&format!("ALTER ROLE {role} CONNECTION LIMIT {}", open - 1))
        .await;
    let close = format!(
        "SELECT count(pg_terminate_backend(pid)) {sessions} AND query LIKE '%mx-job-webhook heartbeat%'"
    );
    assert_eq!(fixture.number(&close).await, 1);
    sleep(4 * dead_after).await;
    let attempts = fixture
        .number("SELECT max(attempts)::bigint FROM apalis.jobs")
        .await;
    one.task.abort();
    other.task.abort();
    sleep(Duration::from_millis(500)).await;
    let _ = sqlx::raw_sql(AssertSqlSafe(format!("DROP OWNED BY {role} CASCADE")))
        .execute(&fixture.pool)
        .await;
    assert_eq!((log.entries().len(), attempts), (1, 0));
}
