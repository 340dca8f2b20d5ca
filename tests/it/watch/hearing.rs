//! What counts as heard.

use std::time::Duration;

use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::watch::{JobWatch, MemoryWatchStore};
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, Permanent, Receipt, Status};
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use super::stand_ins::{FaultyStore, SECOND, deliver, event, guid, heard};

fn watch() -> JobWatch {
    JobWatch::new(MemoryWatchStore::new())
}

#[tokio::test(start_paused = true)]
async fn each_receipt_is_heard_or_not() {
    for (receipt, is_heard) in [
        (Some(Receipt::Handled), true),
        (Some(Receipt::Unhandled), true),
        (Some(Receipt::DeadLettered), true),
        (Some(Receipt::Duplicate), true),
        (Some(Receipt::Stale), false),
        (Some(Receipt::Accepted), false),
        (Some(Receipt::Undecodable), false),
        (None, false),
    ] {
        let watch = watch();
        let answer = move |_: JobEvent| async move { receipt.ok_or("it failed") };
        let jobs = watch.layer().layer(service_fn(answer));
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        let answer = deliver(&jobs, event(Status::Completed, "1")).await;
        assert_eq!(answer.ok(), receipt);
        assert_eq!(heard(&expected).await.is_some(), is_heard, "{receipt:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_heard_when_the_callback_has_succeeded_and_not_before() {
    let watch = watch();
    let router = JobRouter::new().on_completed(|_| tokio::time::sleep(10 * SECOND));
    let jobs = watch.layer().layer(router);
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let delivery = tokio::spawn(async move { deliver(&jobs, event(Status::Completed, "1")).await });
    assert!(expected.within(9 * SECOND).await.unwrap().is_none());
    assert!(expected.within(2 * SECOND).await.unwrap().is_some());
    assert_eq!(delivery.await.unwrap().unwrap(), Receipt::Handled);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_fails_is_not_heard_until_it_succeeds_or_is_dead_lettered() {
    let watch = watch();
    let failures = std::sync::atomic::AtomicU32::new(0);
    let router = JobRouter::new().on_completed(move |_| {
        let attempt = failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            match attempt {
                0 => Err(BoxError::from("it failed")),
                1 => {
                    crate::support::panic_quietly();
                    Ok(())
                }
                _ => Err(Permanent::new("it never succeeds").into()),
            }
        }
    });
    let jobs = watch
        .layer()
        .layer(DedupeLayer::new(MemoryLedger::new()).layer(router.on_dead_letter(|_| async {})));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    for _ in 0..2 {
        let answer = deliver(&jobs, event(Status::Completed, "1")).await;
        assert!(answer.is_err());
        assert_eq!(heard(&expected).await, None);
    }
    let answer = deliver(&jobs, event(Status::Completed, "1")).await;
    assert_eq!(answer.unwrap(), Receipt::DeadLettered);
    assert_eq!(heard(&expected).await, Some(Status::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_hangs_up_does_not_keep_it_from_being_heard() {
    let watch = watch();
    let router = JobRouter::new().on_completed(|_| tokio::time::sleep(10 * SECOND));
    let jobs = watch.layer().layer(router);
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let delivery = deliver(&jobs, event(Status::Completed, "1"));
    assert!(tokio::time::timeout(SECOND, delivery).await.is_err());
    assert!(expected.within(10 * SECOND).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn each_status_that_ends_a_job_ends_the_expectation() {
    for status in [
        Status::Completed,
        Status::Denied,
        Status::Prevented,
        Status::Halted,
    ] {
        let store = FaultyStore::default();
        let watch = JobWatch::new(store.clone());
        let jobs = watch.layer().layer(JobRouter::new());
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        deliver(&jobs, event(status.clone(), "1")).await.unwrap();
        assert_eq!(heard(&expected).await, Some(status));
        assert!(!store.entry(&guid("JOB-1")).await.unwrap().is_expected());
        assert_eq!(store.counts().await, (0, 0));
        // It is over: another `expect` does not start again.
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        assert!(heard(&expected).await.is_some());
        assert_eq!(store.counts().await, (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_mx_sends_no_webhook_for_is_not_heard() {
    let watch = watch();
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    for status in [
        Status::Initiated,
        Status::Requested,
        Status::Received,
        Status::from("NEW_STATUS"),
    ] {
        deliver(&jobs, event(status, "1")).await.unwrap();
        assert_eq!(heard(&expected).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_the_end_does_not_replace_it() {
    let watch = watch();
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    deliver(&jobs, event(Status::Completed, "2")).await.unwrap();
    for late in ["1", "2", "3", "null"] {
        deliver(&jobs, event(Status::Challenged, late))
            .await
            .unwrap();
        assert_eq!(heard(&expected).await, Some(Status::Completed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_expects_costs_the_store_no_expectation() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    for number in 0..100 {
        let event = super::stand_ins::event_of(&format!("JOB-{number}"), Status::Completed, "1");
        deliver(&jobs, event).await.unwrap();
    }
    assert_eq!(store.counts().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn readiness_is_that_of_the_service_within() {
    let watch = watch();
    let jobs =
        watch.layer().layer(
            tower::ServiceBuilder::new()
                .concurrency_limit(1)
                .service(service_fn(|_: JobEvent| async {
                    tokio::time::sleep(SECOND).await;
                    Ok::<_, BoxError>(Receipt::Handled)
                })),
        );
    let mut second = jobs.clone();
    let first = tokio::spawn(jobs.oneshot(event(Status::Completed, "1")));
    tokio::task::yield_now().await;
    let ready = tokio::time::timeout(Duration::from_millis(10), second.ready()).await;
    assert!(ready.is_err());
    first.await.unwrap().unwrap();
    second.ready().await.unwrap();
}
