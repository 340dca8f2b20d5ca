//! Promises of the durable queue, tested by breaking them a third time.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use mx_job_webhook::callback::JobFuture;
use mx_job_webhook::dead_letters::{LetterFilter, PostgresDeadLetters};
use mx_job_webhook::{Background, Error, Job, JobEvent, JobRouter, Permanent, Receipt, Status};
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt as _};

use super::attack::{hex, slow};
use super::attack_again::SESSIONS;
use super::{Fixture, Running, completed, logging, quick, store, until_logged};
use crate::engines::postgres::{Postgres, Version};
use crate::postgres_wire::counted;
use crate::proxy::{Network, Proxy};
use crate::support::Log;
use harness::servers::Folder;

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

/// `with_max_connections`: a number that no server reaches.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn any_number_of_connections_can_be_the_most() {
    let fixture = Fixture::new().await;
    let queue = fixture.queue.clone().with_max_connections(u32::MAX);
    store(&queue, completed("JOB-1")).await;
    assert_eq!(queue.counts().await.unwrap().waiting, 1);
}

/// "After the shutdown, it waits for the database as long as for a silent worker", also if it was away before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_in_an_outage_waits_for_the_database() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    fixture.store(completed("JOB-1")).await;
    let log = Log::default();
    let jobs = slow(&log, Duration::from_millis(300));
    let worker = Running::start(quick(&queue, jobs).with_dead_after(Duration::from_secs(1)));
    until_logged(&log, 1).await;
    proxy.set(Network::Down);
    sleep(Duration::from_secs(2)).await;
    worker.shut_down();
    sleep(Duration::from_millis(200)).await;
    proxy.set(Network::Works);
    worker.end().await;
    assert_eq!(fixture.rows("status = 'Done' AND attempts = 1").await, 1);
}

/// "Events that were stored by the same process wake its workers at once", also if the server's answer to the commit is
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_wakes_workers_although_the_answer_was_lost() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    fixture
        .execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $f$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON apalis.jobs DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .await;
    let log = Log::default();
    let worker = queue
        .worker(logging(&log))
        .with_poll_interval(Duration::from_secs(3600));
    let worker = Running::start(worker);
    sleep(Duration::from_millis(500)).await;
    let storing = tokio::spawn({
        let queue = queue.clone();
        async move { store(&queue, completed("JOB-1")).await }
    });
    sleep(Duration::from_millis(250)).await;
    proxy.set(Network::LosesOneAnswer);
    storing.await.unwrap();
    let start = Instant::now();
    while log.entries().is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "no worker was woken"
        );
        sleep(Duration::from_millis(10)).await;
    }
    worker.end().await;
}

/// `with_replay_lease`: whatever the lease is, a replay does not extend it all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_short_lease_is_not_extended_all_the_time() {
    let fixture = Fixture::new().await;
    let (options, round_trips) = counted().await;
    let (pool, _) = super::queue(options.database(&fixture.database.name));
    let letters = PostgresDeadLetters::new(pool).with_replay_lease(Duration::ZERO);
    let failing = JobRouter::new()
        .on_completed(|_| async { Err::<(), _>(Permanent::new("no")) })
        .on_dead_letter(letters.keep_dead_letters());
    let kept = Background::new().run(failing, completed("JOB-1")).await;
    assert_eq!(kept.unwrap(), Receipt::DeadLettered);
    let page = letters.list(&LetterFilter::new()).await.unwrap();
    round_trips.store(0, Ordering::SeqCst);
    let slow = slow(&Log::default(), Duration::from_secs(1));
    letters
        .replay(page.letters()[0].name(), slow)
        .await
        .unwrap();
    let during = round_trips.load(Ordering::SeqCst);
    assert!(during < 100, "{during} round trips");
}

/// A service of which a clone panics.
struct Fragile {
    jobs: JobRouter,
    panics: Arc<AtomicBool>,
}

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "a clone panics");
        Self {
            jobs: self.jobs.clone(),
            panics: self.panics.clone(),
        }
    }
}

impl Service<JobEvent> for Fragile {
    type Response = Receipt;
    type Error = Error;
    type Future = JobFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::poll_ready(&mut self.jobs, context)
    }

    fn call(&mut self, event: JobEvent) -> JobFuture {
        self.jobs.call(event)
    }
}

/// "No panic ends more than its delivery": the try of a service whose `Clone` panics has failed, as in a mount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_clone_that_panics_is_a_failure() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let panics = Arc::new(AtomicBool::new(false));
    let jobs = Fragile {
        jobs: logging(&log),
        panics: panics.clone(),
    };
    let worker = quick(&fixture.queue, jobs).with_dead_after(Duration::from_secs(3600));
    panics.store(true, Ordering::SeqCst);
    let worker = Running::start(worker);
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    worker.end().await;
}

/// Futures are dropped at each of their steps. The only connection's permit returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn futures_that_are_dropped_at_any_step_keep_no_connection() {
    let fixture = Fixture::new().await;
    let queue = fixture.queue.clone().with_max_connections(1);
    for steps in 0..40 {
        let guid = format!("JOB-{steps}");
        let filter = LetterFilter::new();
        let calls: [Pin<Box<dyn Future<Output = ()> + Send>>; 7] = [
            Box::pin(async { drop(queue.enqueue().oneshot(completed(&guid)).await) }),
            Box::pin(async { drop(queue.replay("JOB-0 COMPLETED -").await) }),
            Box::pin(async { drop(queue.replay_all(&filter).await) }),
            Box::pin(async { drop(queue.dead_letters(&filter).await) }),
            Box::pin(async { drop(queue.prune(Duration::from_secs(1)).await) }),
            Box::pin(async {
                drop(
                    queue
                        .discard("undecodable 343e1662793c64bf6f0d3597ba446f18")
                        .await,
                );
            }),
            Box::pin(async { drop(queue.counts().await) }),
        ];
        for mut call in calls {
            let mut left = steps;
            poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                call.as_mut().poll(context)
            })
            .await;
        }
    }
    let counted = timeout(Duration::from_secs(10), queue.counts()).await;
    counted.unwrap().unwrap();
    store(&queue, completed("JOB-last")).await;
    queue.dead_letters(&LetterFilter::new()).await.unwrap();
}

/// `with_max_connections`, also if calls are dropped, as tower's `timeout` does: the server continues with their statements.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn dropped_calls_have_no_further_sessions() {
    let fixture = Fixture::new().await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs, mx_job_webhook_dead_letters IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let letters = LetterFilter::new();
    for number in 0..20 {
        let dropped = Duration::from_millis(30);
        let store = fixture
            .queue
            .enqueue()
            .oneshot(completed(&format!("JOB-{number}")));
        assert!(timeout(dropped, store).await.is_err());
        assert!(timeout(dropped, fixture.queue.counts()).await.is_err());
        let letters = fixture.queue.dead_letters(&letters);
        assert!(timeout(dropped, letters).await.is_err());
    }
    let sessions = fixture.number(SESSIONS).await;
    lock.rollback().await.unwrap();
    assert!((1..=6).contains(&sessions), "{sessions} sessions");
    // Their connections are free again.
    store(&fixture.queue, completed("JOB-last")).await;
}
