//! Tries: their number, their pauses, and what ends them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use mx_job_webhook::callback::JobFuture;
use mx_job_webhook::event::{FencingToken, Source};
use mx_job_webhook::ledger::{Claim, EventName, Ledger as _, MemoryLedger, PostgresLedger};
use mx_job_webhook::queue::Try;
use mx_job_webhook::{DedupeLayer, Error, JobEvent, JobRouter, Permanent, Receipt, Status};
use sqlx::AssertSqlSafe;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer as _, Service, ServiceExt as _, service_fn};

use super::{
    DEAD_AFTER, Fixture, Running, assert_counts, completed, event, logging, quick, slow,
    until_logged,
};
use crate::support::Log;

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_callback_that_fails_runs_again_and_knows_its_try() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let (noted, tokens) = (log.clone(), Arc::new(AtomicU64::new(0)));
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, tokens) = (noted.clone(), tokens.clone());
        async move {
            let it = Try::of(&event).unwrap();
            let token = event.fencing_token().map_or(0, FencingToken::get);
            assert!(tokens.swap(token, Ordering::Relaxed) < token);
            assert_eq!(event.source(), Source::Queue);
            assert!(event.headers().is_empty());
            log.push(format!("{} {}", it.number(), it.is_last()));
            if it.number() < 3 {
                Err("the bank did not answer")
            } else {
                Ok(())
            }
        }
    });
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(4));
    fixture.until(1, "status = 'Done' AND attempts = 3").await;
    assert_eq!(log.entries(), ["1 false", "2 false", "3 false"]);
    worker.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_last_failure_and_a_permanent_one_leave_dead_letters() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let noted = log.clone();
    let jobs = JobRouter::new()
        .on_completed(move |event: JobEvent| {
            let log = noted.clone();
            async move {
                log.push(Try::of(&event).unwrap().is_last().to_string());
                Err::<(), BoxError>("the bank\ndid not answer\0".into())
            }
        })
        .on_denied(|_| async { Err(Permanent::new("never")) })
        .on_halted(|_| async { panic!("a bug") });
    for (guid, status) in [
        ("JOB-1", Status::Completed),
        ("JOB-2", Status::Denied),
        ("JOB-3", Status::Halted),
    ] {
        fixture.store(event(guid, status)).await;
    }
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(3));
    let dead = "status = 'Killed' OR (status = 'Failed' AND attempts >= max_attempts)";
    fixture.until(3, dead).await;
    // Long enough for a worker to run them again by mistake.
    sleep(Duration::from_millis(500)).await;
    worker.end().await;
    assert_eq!(log.entries(), ["false", "false", "true"]);
    for (fate, error) in [
        (
            "'Failed' AND attempts = 3",
            "the callback failed: the bank\\ndid not answer\\u{0}",
        ),
        (
            "'Killed' AND attempts = 1",
            "the callback failed: a permanent error: no retry will help: never",
        ),
        ("'Failed' AND attempts = 3", "the callback panicked"),
    ] {
        let found = format!("status = {fate} AND last_result ->> 'Err' = '{error}'");
        assert_eq!(fixture.rows(&found).await, 1, "{found}");
    }
    assert_counts(fixture.queue.counts().await.unwrap(), 0, 0, 3);
}

/// An event that pauses takes no place of others, and the pauses double.
/// `commit_in`: "The method changes three settings for this transaction."
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn commit_in_changes_the_settings_of_the_transaction_that_it_documents() {
    let fixture = Fixture::new().await;
    for (number, (synchronous, idle, expected)) in [
        ("off", "0", "on 1min error"),
        ("local", "0", "on 1min error"),
        ("remote_write", "10s", "remote_write 10s error"),
        ("remote_apply", "2min", "remote_apply 2min error"),
    ]
    .into_iter()
    .enumerate()
    {
        let settings = [
            ("synchronous_commit", synchronous),
            ("idle_in_transaction_session_timeout", idle),
        ];
        let (pool, queue) = super::queue(fixture.database.options().options(settings));
        let log = Log::default();
        let (in_callback, noted) = (queue.clone(), log.clone());
        let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
            let (pool, queue, log) = (pool.clone(), in_callback.clone(), noted.clone());
            async move {
                let mut transaction = pool.begin().await?;
                queue.commit_in(&mut transaction, &event).await?;
                let setting = "concat_ws(' ', current_setting('synchronous_commit'),
                    current_setting('idle_in_transaction_session_timeout'), current_setting('client_min_messages'))";
                let settings = format!("SELECT {setting}");
                let settings = sqlx::query_scalar(AssertSqlSafe(settings));
                log.push(settings.fetch_one(&mut *transaction).await.map(|it: String| it)?);
                transaction.commit().await?;
                Ok::<_, BoxError>(())
            }
        });
        fixture.store(completed(&format!("JOB-{number}"))).await;
        let worker = Running::start(quick(&queue, jobs));
        until_logged(&log, 1).await;
        worker.end().await;
        assert_eq!(log.entries(), [expected]);
    }
}

/// A failure after `commit_in` whose transaction is rolled back is a failed try like any other.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_callback_that_fails_after_commit_in_and_commits_nothing_has_failed() {
    let fixture = Fixture::new().await;
    let (pool, queue) = (fixture.pool.clone(), fixture.queue.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue) = (pool.clone(), queue.clone());
        async move {
            let mut transaction = pool.begin().await?;
            queue.commit_in(&mut transaction, &event).await?;
            Err::<(), BoxError>("the bank did not answer".into())
        }
    });
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(1));
    fixture.until(1, "status = 'Failed'").await;
    let letters = fixture.letters().await;
    let error = letters.letters()[0].error();
    assert!(error.contains("the bank did not answer"), "{error}");
    worker.end().await;
}

/// A pause begins when the try has ended, however long that took.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_pauses_after_a_long_try_too() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let noted = log.clone();
    let jobs = JobRouter::new().on_completed(move |_| {
        let log = noted.clone();
        async move {
            log.push("started");
            sleep(Duration::from_millis(1_500)).await;
            log.push("ended");
            Err::<(), _>("not yet")
        }
    });
    fixture.store(completed("JOB-1")).await;
    let pause = Duration::from_millis(1_500);
    let worker = quick(&fixture.queue, jobs).with_backoff(pause, pause);
    let worker = Running::start(worker);
    until_logged(&log, 2).await;
    let start = Instant::now();
    until_logged(&log, 3).await;
    // It is shortened by up to a half.
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(700), "{elapsed:?}");
    worker.task.abort();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn pauses_double_and_block_no_other_event() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let noted = log.clone();
    let start = Instant::now();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let log = noted.clone();
        async move {
            log.push(event.guid.to_string());
            if event.guid.as_str() == "JOB-bad" {
                return Err("not yet");
            }
            Ok(())
        }
    });
    fixture.store(completed("JOB-bad")).await;
    for number in 0..5 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let pause = Duration::from_millis(800);
    let worker = quick(&fixture.queue, jobs)
        .with_concurrency(1)
        .with_tries(3);
    let worker = Running::start(worker.with_backoff(pause, pause * 2));
    fixture.until(1, "status = 'Failed' AND attempts = 3").await;
    // The pauses are shortened by up to a half: 0.4 to 0.8 s and 0.8 to 1.6 s.
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(1_200), "{elapsed:?}");
    worker.end().await;
    let entries = log.entries();
    assert_eq!(
        entries[..6]
            .iter()
            .filter(|guid| *guid == "JOB-bad")
            .count(),
        1,
        "{entries:?}"
    );
    assert_eq!(entries.len(), 8);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_effect_in_the_transaction_stands_once_whatever_the_callback_says() {
    let fixture = Fixture::new().await;
    fixture.execute("CREATE TABLE effects (guid text)").await;
    let (pool, queue) = (fixture.pool.clone(), fixture.queue.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue) = (pool.clone(), queue.clone());
        async move {
            let mut transaction = pool.begin().await?;
            sqlx::query("INSERT INTO effects VALUES ($1)")
                .bind(event.guid.as_str())
                .execute(&mut *transaction)
                .await?;
            let it = Try::of(&event).unwrap();
            if event.guid.as_str() == "JOB-early" && it.number() == 1 {
                return Err::<(), BoxError>("before the commit".into());
            }
            queue.commit_in(&mut transaction, &event).await?;
            if event.guid.as_str() == "JOB-rolled-back" && it.number() == 1 {
                return Err("the transaction is rolled back".into());
            }
            transaction.commit().await?;
            if event.guid.as_str() == "JOB-late" {
                return Err("after the commit".into());
            }
            Ok(())
        }
    });
    for guid in ["JOB-early", "JOB-rolled-back", "JOB-late", "JOB-fine"] {
        fixture.store(completed(guid)).await;
    }
    let worker = Running::start(quick(&fixture.queue, jobs));
    fixture.until(4, "status = 'Done'").await;
    sleep(Duration::from_millis(300)).await;
    worker.end().await;
    assert_eq!(fixture.number("SELECT count(*) FROM effects").await, 4);
    assert_eq!(
        fixture
            .number("SELECT count(DISTINCT guid) FROM effects")
            .await,
        4
    );
    assert_eq!(fixture.rows("status = 'Done'").await, 4);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn commit_in_refuses_events_that_did_not_come_from_a_worker_of_the_queue() {
    let fixture = Fixture::new().await;
    let mut transaction = fixture.pool.begin().await.unwrap();
    let error = fixture
        .queue
        .commit_in(&mut transaction, &completed("JOB-1"))
        .await;
    let error = error.unwrap_err();
    assert!(!error.is_overtaken() && std::error::Error::source(&error).is_none());
    assert!(error.to_string().contains("neither"), "{error}");
    assert_eq!(format!("{error:?}"), format!("CommitInError: {error}"));

    // An event of another queue.
    let (pool, other) = (fixture.pool.clone(), fixture.queue.clone().named("other"));
    let refused = Arc::new(AtomicBool::new(false));
    let noted = refused.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, other, noted) = (pool.clone(), other.clone(), noted.clone());
        async move {
            let mut transaction = pool.begin().await.unwrap();
            let outcome = other.commit_in(&mut transaction, &event).await;
            noted.store(outcome.is_err(), Ordering::Relaxed);
        }
    });
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, jobs));
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;
    assert!(refused.load(Ordering::Relaxed));
}

/// A ledger within the worker works as it does within a mount.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_ledger_within_the_worker_settles_in_the_transaction_too() {
    let fixture = Fixture::new().await;
    fixture.execute("CREATE TABLE effects (guid text)").await;
    let ledger = PostgresLedger::new(fixture.pool.clone());
    ledger.create_table().await.unwrap();
    let (pool, within) = (fixture.pool.clone(), ledger.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, ledger) = (pool.clone(), within.clone());
        async move {
            let mut transaction = pool.begin().await?;
            sqlx::query("INSERT INTO effects VALUES ('x')")
                .execute(&mut *transaction)
                .await?;
            ledger.commit_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            Err::<(), BoxError>("after the commit".into())
        }
    });
    fixture.store(completed("JOB-1")).await;
    let worker = Running::start(quick(&fixture.queue, DedupeLayer::new(ledger).layer(jobs)));
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    worker.end().await;
    assert_eq!(fixture.number("SELECT count(*) FROM effects").await, 1);
}

/// Guide: "tries that fail with `InFlight` do not count". A process has died in its callback, so the lease of its ledger goes on.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_try_that_finds_an_earlier_delivery_under_way_does_not_count() {
    found_under_way_after(0).await;
    // Another one would make the event a dead letter.
    found_under_way_after(1).await;
}

/// `deaths` are tries that have counted before.
async fn found_under_way_after(deaths: i32) {
    let fixture = Fixture::new().await;
    let ledger = MemoryLedger::new();
    let event = completed("JOB-1");
    let lease = Duration::from_secs(2);
    let claim = ledger.claim(&EventName::of(&event), lease).await.unwrap();
    assert!(matches!(claim, Claim::Granted(_)), "{claim:?}");
    fixture.store(event).await;
    let died = format!("UPDATE apalis.jobs SET attempts = {deaths}, max_attempts = {deaths}");
    fixture.execute(&died).await;
    let log = Log::default();
    let noted = log.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let log = noted.clone();
        async move {
            let it = Try::of(&event).unwrap();
            log.push(format!("{} {}", it.number(), it.is_last()));
        }
    });
    let jobs = DedupeLayer::new(ledger).layer(jobs);
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(1));
    let waits = format!("status = 'Pending' AND attempts = {deaths} AND last_result IS NOT NULL");
    fixture.until(1, &waits).await;
    let number = deaths + 1;
    let done = format!("status = 'Done' AND attempts = {number}");
    fixture.until(1, &done).await;
    assert_eq!(log.entries(), [format!("{number} true")]);
    worker.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn any_service_of_events_can_be_the_jobs_of_a_worker() {
    let fixture = Fixture::new().await;
    let jobs = service_fn(|event: JobEvent| async move {
        if event.status == Status::Denied {
            Err("refused".to_owned())
        } else {
            Ok(())
        }
    });
    fixture.store(event("JOB-1", Status::Denied)).await;
    fixture.store(event("JOB-2", Status::from("NEW"))).await;
    let jobs = tower::ServiceBuilder::new()
        .concurrency_limit(1)
        .service(jobs);
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(1));
    fixture.until(1, "status = 'Done'").await;
    fixture
        .until(1, "status = 'Failed' AND attempts = max_attempts")
        .await;
    worker.end().await;
    // Its events do not come back.
    let receipt = fixture
        .queue
        .enqueue()
        .oneshot(event("JOB-1", Status::Denied))
        .await;
    assert_eq!(receipt.unwrap(), Receipt::Queued);
    assert_counts(fixture.queue.counts().await.unwrap(), 0, 0, 1);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn counts_name_what_waits_runs_and_is_dead() {
    let fixture = Fixture::new().await;
    assert_counts(fixture.queue.counts().await.unwrap(), 0, 0, 0);
    assert_eq!(fixture.queue.counts().await.unwrap().oldest, None);
    for number in 0..3 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    sleep(Duration::from_millis(300)).await;
    fixture.store(completed("JOB-3")).await;
    let counts = fixture.queue.counts().await.unwrap();
    assert_counts(counts, 4, 0, 0);
    assert!(counts.oldest.unwrap() >= Duration::from_millis(300));
    let jobs = JobRouter::new().on_completed(|_| std::future::pending::<()>());
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(2));
    fixture.until(2, "status = 'Running'").await;
    assert_counts(fixture.queue.counts().await.unwrap(), 2, 2, 0);
    worker.task.abort();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn times_that_no_clock_can_express_do_not_come() {
    let fixture = Fixture::new().await;
    let jobs = JobRouter::new()
        .on_completed(|_| async {})
        .on_denied(|_| async { Err("the bank did not answer") });
    let worker = fixture
        .queue
        .worker(jobs)
        .with_poll_interval(Duration::MAX)
        .with_backoff(Duration::MAX, Duration::MAX)
        .with_dead_after(Duration::MAX);
    let worker = Running::start(worker);
    // The worker has looked once, and waits until this process stores an event.
    sleep(Duration::from_millis(200)).await;
    fixture.store(completed("JOB-1")).await;
    fixture.store(event("JOB-2", Status::Denied)).await;
    fixture.until(1, "status = 'Done'").await;
    fixture
        .until(
            1,
            "status = 'Failed' AND run_at > now() + interval '90 years'",
        )
        .await;
    worker.end().await;
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
    let pause = fixture
        .number("SELECT (extract(epoch FROM run_at - done_at) * 1000)::bigint FROM apalis.jobs")
        .await;
    after_a_deployment.end().await;
    // 1.6 s, shortened by up to a half.
    assert!(pause >= 800, "{pause} ms");
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
        let page = fixture.letters().await;
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

/// "The fencing token of the later run is larger", also if the server's clock was set back. An event that has ended is
/// nobody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_token_is_larger_although_the_clock_was_set_back() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let noted = log.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        noted.push(event.fencing_token().unwrap().get().to_string());
        async { Err::<(), BoxError>("no".into()) }
    });
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET lock_at = now() + interval '1 hour'")
        .await;
    let before = fixture
        .number("SELECT (extract(epoch FROM lock_at) * 1000000)::bigint FROM apalis.jobs")
        .await;
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(2));
    fixture.until(1, "status = 'Failed' AND attempts = 2").await;
    worker.end().await;
    let tokens: Vec<i64> = log
        .entries()
        .iter()
        .map(|token| token.parse().unwrap())
        .collect();
    assert_eq!(tokens, [before + 1, before + 2]);
    assert_eq!(fixture.rows("lock_by IS NOT NULL").await, 0);
}

/// A callback that panics fails, and the worker continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn panics_are_failures_with_pauses() {
    let fixture = Fixture::new().await;
    let jobs = JobRouter::new().on_completed(|event: JobEvent| {
        assert!(event.guid.as_str() != "JOB-at-once", "at once");
        async move {
            tokio::task::yield_now().await;
            assert!(event.guid.as_str() != "JOB-later", "later");
            Ok::<(), BoxError>(())
        }
    });
    let worker = Running::start(
        quick(&fixture.queue, jobs)
            .with_tries(2)
            .with_concurrency(1),
    );
    for guid in ["JOB-at-once", "JOB-later", "JOB-good"] {
        fixture.store(completed(guid)).await;
    }
    fixture.until(2, "status = 'Failed' AND attempts = 2").await;
    fixture.until(1, "status = 'Done'").await;
    worker.end().await;
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

/// Callbacks that end at the same time are recorded by few statements.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn tries_that_end_together_are_recorded_together() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE TABLE recorded (statement text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                 IF NEW.status = 'Done' THEN INSERT INTO recorded VALUES (txid_current()); END IF;
                 RETURN NEW; END $f$;
             CREATE TRIGGER note BEFORE UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    for number in 0..60 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let log = Log::default();
    let (noted, together) = (log.clone(), Arc::new(Notify::new()));
    let ends = together.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, together) = (noted.clone(), together.clone());
        async move {
            let notified = together.notified();
            log.push(event.guid.to_string());
            notified.await;
        }
    });
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(60));
    until_logged(&log, 60).await;
    sleep(Duration::from_millis(50)).await;
    ends.notify_waiters();
    fixture.until(60, "status = 'Done'").await;
    worker.end().await;
    let statements = "SELECT count(DISTINCT statement) FROM recorded";
    let statements = fixture.number(statements).await;
    assert!(statements <= 10, "{statements} statements");
}

/// A row that another transaction has locked delays no other event, and it is recorded once it is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_row_that_is_locked_by_others_is_recorded_later() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    fixture.store(completed("JOB-locked")).await;
    let worker = Running::start(quick(&fixture.queue, slow(&log, Duration::from_secs(1))));
    until_logged(&log, 1).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM apalis.jobs FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    fixture.store(completed("JOB-2")).await;
    fixture.until(1, "status = 'Done'").await;
    sleep(DEAD_AFTER * 2).await;
    assert_eq!(fixture.rows("status = 'Running'").await, 1);
    lock.rollback().await.unwrap();
    fixture.until(2, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    assert_eq!(log.entries().len(), 2);
}

/// Guide: "`Pending` rows have not run", "other `Failed` rows have failed and wait until `run_at`", and the query of "What has failed
/// and runs again, with its last error". An event that has failed, and then met an earlier delivery, has failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_has_failed_is_found_with_its_error_after_a_try_that_did_not_count() {
    let fixture = Fixture::new().await;
    let ledger = MemoryLedger::new();
    let event = completed("JOB-1");
    let name = EventName::of(&event);
    fixture.store(event).await;
    let jobs = JobRouter::new().on_completed(|_: JobEvent| async {
        Err::<(), tower::BoxError>("the bank is closed".into())
    });
    let pause = Duration::from_millis(500);
    let worker = quick(&fixture.queue, DedupeLayer::new(ledger.clone()).layer(jobs));
    let worker = Running::start(worker.with_backoff(pause, pause));
    fixture.until(1, "status = 'Failed' AND attempts = 1").await;
    let claim = ledger.claim(&name, Duration::from_secs(600)).await.unwrap();
    assert!(matches!(claim, Claim::Granted(_)), "{claim:?}");
    // Two tries that do not count.
    sleep(pause * 3).await;
    let failed = "job_type = 'mx-jobs' AND status = 'Failed' AND attempts < max_attempts";
    let failed = fixture.rows(failed).await;
    let with_error = fixture
        .rows("last_result ->> 'Err' LIKE '%the bank is closed%'")
        .await;
    worker.end().await;
    assert_eq!(
        (failed, with_error),
        (1, 1),
        "rows that have failed, and rows with the error"
    );
}

/// "So it is at once after a `Permanent` error", whatever its cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_permanent_error_of_middleware_whose_cause_is_in_flight_makes_a_dead_letter() {
    let fixture = Fixture::new().await;
    let ledger = MemoryLedger::new();
    let event = completed("JOB-1");
    let lease = Duration::from_secs(600);
    let claim = ledger.claim(&EventName::of(&event), lease).await.unwrap();
    assert!(matches!(claim, Claim::Granted(_)), "{claim:?}");
    fixture.store(event).await;
    let log = Log::default();
    let noted = log.clone();
    let inner = DedupeLayer::new(ledger).layer(logging(&log));
    let jobs = tower::service_fn(move |event: JobEvent| {
        noted.push("runs".to_owned());
        let inner = inner.clone();
        async move { inner.oneshot(event).await.map_err(Permanent::new) }
    });
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(3));
    fixture.until(1, "status = 'Killed'").await;
    worker.end().await;
    assert_eq!(log.entries(), ["runs"]);
}
