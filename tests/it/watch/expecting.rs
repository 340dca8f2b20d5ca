//! `expect`: recorded when it returns, idempotent, and bounded.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::watch::{
    Counts, JobWatch, MemoryWatchStore, Replaced, SettledEvent, Stored, Update, Wake, WatchStore,
};
use mx_job_webhook::{ErrorKind, JobEvent, JobRouter, Receipt, Status};
use tokio::time::{Instant, sleep};
use tower::Layer as _;

use super::stand_ins::{Fault, FaultyStore, SECOND, deliver, event, guid, heard};
use crate::support::panic_quietly;

const FAULTS: [Fault; 4] = [
    Fault::Fails,
    Fault::Hangs,
    Fault::Panics,
    Fault::LosesTheAnswer,
];

#[tokio::test(start_paused = true)]
async fn it_is_recorded_when_it_returns() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    assert!(store.entry(&guid("JOB-1")).await.unwrap().is_expected());
    assert_eq!(store.counts().await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn expecting_again_changes_nothing_not_even_the_due_time() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let other = JobWatch::new(store.clone());
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(29 * SECOND).await;
    let before = store.entry(&guid("JOB-1")).await;
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    let _ = other.expect(&guid("JOB-1")).await.unwrap();
    assert_eq!(store.entry(&guid("JOB-1")).await, before);
    sleep(2 * SECOND).await;
    assert_eq!(store.counts().await, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_an_error_in_bounded_time() {
    for fault in FAULTS {
        let store = FaultyStore::default();
        let watch = JobWatch::new(store.clone()).with_store_timeout(3 * SECOND);
        store.all(fault);
        let start = Instant::now();
        let error = watch.expect(&guid("JOB-1")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WatchUnavailable, "{fault:?}");
        assert!(start.elapsed() <= 3 * SECOND, "{fault:?}");
        store.all(Fault::None);
        let _ = watch.expect(&guid("JOB-1")).await.unwrap();
        assert_eq!(store.counts().await, (1, 0), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_recorded_is_not_acknowledged_and_heard_when_it_is_delivered_again() {
    for fault in FAULTS {
        let store = FaultyStore::default();
        let watch = JobWatch::new(store.clone());
        let jobs = watch.layer().layer(JobRouter::new());
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        store.all(fault);
        let start = Instant::now();
        let answer = deliver(&jobs, event(Status::Completed, "1")).await;
        let kind = answer.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::WatchUnavailable, "{fault:?}");
        assert!(start.elapsed() <= 5 * SECOND, "{fault:?}");
        store.all(Fault::None);
        let answer = deliver(&jobs, event(Status::Completed, "1")).await;
        assert_eq!(answer.unwrap(), Receipt::Unhandled);
        assert_eq!(heard(&expected).await, Some(Status::Completed), "{fault:?}");
        assert_eq!(store.counts().await, (0, 0), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_capacity_it_is_an_error_and_no_expectation_is_evicted() {
    let store = FaultyStore::of(MemoryWatchStore::new().with_capacity(2));
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let first = watch.expect(&guid("JOB-1")).await.unwrap();
    let _ = watch.expect(&guid("JOB-2")).await.unwrap();
    let full = watch.expect(&guid("JOB-3")).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::WatchUnavailable);
    // Those that are expected can be expected again, and after a challenge.
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    let challenge = event(Status::Challenged, "1");
    deliver(&jobs, challenge.clone()).await.unwrap();
    assert_eq!(heard(&first).await, Some(Status::Challenged));
    assert!(watch.expect(&guid("JOB-3")).await.is_err());
    let first = watch.expect_after(&name(&challenge)).await.unwrap();
    // Its end makes room.
    deliver(&jobs, event(Status::Completed, "2")).await.unwrap();
    assert_eq!(heard(&first).await, Some(Status::Completed));
    let _ = watch.expect(&guid("JOB-3")).await.unwrap();
    assert_eq!(store.counts().await, (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_store_still_hears() {
    let watch = JobWatch::new(MemoryWatchStore::new().with_capacity(0));
    let jobs = watch.layer().layer(JobRouter::new());
    assert!(watch.expect(&guid("JOB-1")).await.is_err());
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    // The job is over, so nothing has to be kept.
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    assert_eq!(heard(&expected).await, Some(Status::Completed));
}

/// Panics before it returns a future.
struct Panics;

impl WatchStore for Panics {
    type Error = Infallible;

    fn load(
        &self,
        _: &[JobGuid],
    ) -> impl Future<Output = Result<Vec<(JobGuid, Stored)>, Infallible>> + Send {
        panic_quietly();
        pending()
    }

    fn replace(
        &self,
        _: &JobGuid,
        _: Option<u64>,
        _: Update<'_>,
    ) -> impl Future<Output = Result<Replaced, Infallible>> + Send {
        panic_quietly();
        pending()
    }

    fn claim_due(
        &self,
        _: usize,
        _: Duration,
    ) -> impl Future<Output = Result<Vec<(JobGuid, Stored)>, Infallible>> + Send {
        panic_quietly();
        pending()
    }

    fn count(&self) -> impl Future<Output = Result<Counts, Infallible>> + Send {
        panic_quietly();
        pending()
    }

    fn listen(&self, _: Wake) -> impl Future<Output = Result<(), Infallible>> + Send {
        panic_quietly();
        pending()
    }

    fn record_unexpected(&self, _: SettledEvent, _: Duration) -> Option<SettledEvent> {
        panic_quietly();
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_outside_of_a_future_is_an_error_too() {
    let watch = JobWatch::new(Panics);
    let error = watch.expect(&guid("JOB-1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WatchUnavailable);
    let jobs = watch.layer().layer(JobRouter::new());
    let answer = deliver(&jobs, event(Status::Completed, "1")).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::WatchUnavailable);
}

fn name(event: &JobEvent) -> EventName {
    EventName::of(event)
}

#[tokio::test(start_paused = true)]
async fn an_expected_job_is_kept_for_ever_and_one_that_waits_for_its_user_for_an_hour() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    for job in ["JOB-1", "JOB-2"] {
        let _ = watch.expect(&guid(job)).await.unwrap();
    }
    deliver(&jobs, event(Status::Challenged, "1"))
        .await
        .unwrap();
    sleep(59 * 60 * SECOND).await;
    assert!(store.entry(&guid("JOB-1")).await.is_some());
    sleep(2 * 60 * SECOND).await;
    assert_eq!(store.entry(&guid("JOB-1")).await, None);
    sleep(365 * 24 * 3600 * SECOND).await;
    assert!(store.entry(&guid("JOB-2")).await.unwrap().is_expected());
}
