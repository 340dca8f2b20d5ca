//! Tries: their number, their pauses, and what ends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mx_job_webhook::event::{FencingToken, Source};
use mx_job_webhook::ledger::PostgresLedger;
use mx_job_webhook::queue::Try;
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, Permanent, Receipt, Status};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use super::{Fixture, Running, assert_counts, completed, event, logging, quick, until_logged};
use crate::postgres_wire::counted;
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
async fn events_run_in_the_order_in_which_they_were_stored() {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..30).map(|number| format!("JOB-{number}")).collect();
    for guid in &guids {
        fixture.store(completed(guid)).await;
    }
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(1));
    until_logged(&log, 30).await;
    worker.end().await;
    assert_eq!(log.entries(), guids);
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
    let counts = fixture.queue.counts().await.unwrap();
    assert_counts(counts, 3, 0, 0);
    assert!(counts.oldest.unwrap() >= Duration::from_millis(300));
    let jobs = JobRouter::new().on_completed(|_| std::future::pending::<()>());
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(2));
    fixture.until(2, "status = 'Running'").await;
    assert_counts(fixture.queue.counts().await.unwrap(), 1, 2, 0);
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

/// A worker that cannot look for events tries again after a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_statements_fail_does_not_repeat_them_all_the_time() {
    let fixture = Fixture::new().await;
    let (options, round_trips) = counted().await;
    let (_pool, queue) = super::queue(options.database(&fixture.database.name));
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    fixture
        .execute("ALTER TABLE apalis.jobs RENAME TO hidden")
        .await;
    // The heartbeats fail too.
    sleep(Duration::from_secs(1)).await;
    round_trips.store(0, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    let during = round_trips.load(Ordering::SeqCst);
    fixture
        .execute("ALTER TABLE apalis.hidden RENAME TO jobs")
        .await;
    fixture.store(completed("JOB-2")).await;
    until_logged(&log, 2).await;
    worker.end().await;
    // The worker looks for events, reports and counts, each after a pause of 250 ms or more.
    assert!((2..=25).contains(&during), "{during} round trips");
}
