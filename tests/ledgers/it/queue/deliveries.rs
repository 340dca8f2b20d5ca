//! Deliveries at the same time, and those that are dropped.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use mx_job_webhook::{JobEvent, JobRouter, Permanent, Receipt};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tower::{BoxError, ServiceExt as _};

use super::logged::Lines;
use super::{
    Fixture, PATIENCE, Running, completed, logging, quick, sleeping_trigger, until_logged,
};
use crate::support::Log;
use harness::servers::Folder;

/// Guide: "a further delivery counts as `queued`, and as `duplicate` once a worker has handled the event." The first one does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_first_delivery_is_no_duplicate() {
    let fixture = Fixture::new().await;
    for guid in ["JOB-old", "JOB-dead"] {
        fixture.store(completed(guid)).await;
    }
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"no\"}'
             WHERE idempotency_key LIKE 'JOB-dead %'",
        )
        .await;
    let letter = fixture.letters().await.letters()[0].name().to_owned();
    let condition = "NEW.idempotency_key SIMILAR TO 'JOB-(first|new) %'";
    sleeping_trigger(&fixture.pool, "INSERT", condition, 1.5).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM apalis.jobs WHERE idempotency_key LIKE 'JOB-dead %' FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let log = Log::default();
    let worker = Running::start(quick(&fixture.other(), logging(&log)));
    let queue = fixture.other().with_max_connections(2);
    let enqueue = |guid| tokio::spawn(queue.enqueue().oneshot(completed(guid)));
    let first = enqueue("JOB-first");
    sleep(Duration::from_millis(300)).await;
    let (new, old) = (enqueue("JOB-new"), enqueue("JOB-old"));
    first.await.unwrap().unwrap();
    sleep(Duration::from_millis(500)).await;
    let discarding = queue.clone();
    let discard = tokio::spawn(async move { discarding.discard(&letter).await });
    fixture
        .until(1, "status = 'Done' AND idempotency_key LIKE 'JOB-new %'")
        .await;
    lock.rollback().await.unwrap();
    let _ = discard.await.unwrap();
    let _ = old.await.unwrap();
    let receipt = new.await.unwrap().unwrap();
    worker.end().await;
    assert_eq!(receipt, Receipt::Queued);
}

/// Guide: "It works through `PgBouncer` in session and transaction mode", also if calls are dropped, refused, and delivered again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the engines"]
async fn deliveries_through_a_pooler_end_although_others_are_dropped() {
    let fixture = Fixture::new().await;
    let folder = Folder::new();
    let settings = [
        ("pool_mode", "transaction"),
        ("default_pool_size", "3"),
        ("ignore_startup_parameters", "extra_float_digits"),
    ];
    let pgbouncer = crate::engines::pgbouncer::start(
        &folder,
        crate::engines::pgbouncer::Version::V1_24,
        fixture.database.server(),
        &settings,
    );
    let options = crate::engines::postgres::at(pgbouncer.address).database(&fixture.database.name);
    let queues = [super::queue(options.clone()).1, super::queue(options).1];
    storm_of_deliveries(&fixture, queues).await;
}

/// `Enqueue`: "If its future is dropped, the event may be stored nevertheless; the next delivery then finds it." Each delivery ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn deliveries_end_although_others_are_dropped_at_any_poll() {
    let fixture = Fixture::new().await;
    let queues = [fixture.queue.clone(), fixture.other()];
    storm_of_deliveries(&fixture, queues).await;
}

async fn storm_of_deliveries(fixture: &Fixture, queues: [mx_job_webhook::queue::JobQueue; 2]) {
    fixture
        .execute("ALTER TABLE apalis.jobs ADD CHECK (idempotency_key NOT LIKE '%-refused %')")
        .await;
    let mut senders = Vec::new();
    for number in 0..64_usize {
        let queue = queues[usize::from(number % 3 == 2)].clone();
        senders.push(tokio::spawn(async move {
            for round in 0..12_usize {
                let guid = format!("JOB-{}-{round}", number / 2);
                for _ in 0..fastrand::usize(0..4) {
                    let polls = fastrand::usize(0..12);
                    let mut call = Box::pin(queue.enqueue().oneshot(completed(&guid)));
                    let mut polled = 0;
                    let dropped = poll_fn(|context| {
                        if polled >= polls {
                            return Poll::Ready(());
                        }
                        polled += 1;
                        call.as_mut().poll(context).map(|_| ())
                    });
                    let _ = timeout(Duration::from_millis(200), dropped).await;
                    drop(call);
                }
                if number % 8 == 0 {
                    let refused = completed(&format!("JOB-{number}-refused"));
                    assert!(queue.enqueue().oneshot(refused).await.is_err());
                }
                let answer = timeout(PATIENCE, queue.enqueue().oneshot(completed(&guid))).await;
                match answer.expect("the delivery ends") {
                    Ok(receipt) => assert_eq!(receipt, Receipt::Queued),
                    Err(error) => panic!("{error:#}"),
                }
            }
        }));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(fixture.rows("true").await, 32 * 12);
}

/// `observability`: "ERROR with the event's name for an event that has failed for the last time". An event that succeeds is none. A
/// worker was cut off, its event was taken over, and it has taken the event again. Both tries end at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_has_succeeded_is_not_logged_as_a_dead_letter() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    sleeping_trigger(
        &fixture.pool,
        "UPDATE",
        "NEW.status = 'Done' AND NEW.idempotency_key LIKE 'JOB-slow %'",
        2.0,
    )
    .await;
    let log = Log::default();
    let gates: [Arc<Notify>; 3] = Default::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (noted, opened) = (log.clone(), gates.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, gates, calls) = (noted.clone(), opened.clone(), calls.clone());
        async move {
            log.push(event.guid.to_string());
            if event.guid.as_str() == "JOB-slow" {
                gates[0].notified().await;
                return Ok(());
            }
            if calls.fetch_add(1, Ordering::SeqCst) == 0 {
                gates[1].notified().await;
                return Err::<(), BoxError>(Permanent::new("no").into());
            }
            gates[2].notified().await;
            Ok(())
        }
    });
    let worker = Running::start(quick(&fixture.queue, jobs));
    fixture.store(completed("JOB-twice-in-one-statement")).await;
    until_logged(&log, 1).await;
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Pending', attempts = attempts + 1, lock_by = NULL",
        )
        .await;
    until_logged(&log, 2).await;
    fixture.store(completed("JOB-slow")).await;
    until_logged(&log, 3).await;
    gates[0].notify_one();
    sleep(Duration::from_millis(700)).await;
    gates[1].notify_one();
    gates[2].notify_one();
    fixture.until(2, "status = 'Done'").await;
    worker.end().await;
    assert_eq!(fixture.queue.counts().await.unwrap().dead, 0);
    assert_eq!(
        lines.count(&["is a dead letter", "JOB-twice-in-one-statement"]),
        0
    );
}
