//! Attacks on commits that go on in the background. RED marks what fails today.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::tracked;
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{
    Background, DedupeLayer, ErrorKind, Job, JobEvent, JobRouter, Receipt, Status,
};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer as _, ServiceExt as _};

fn event() -> JobEvent {
    Job::new("JOB-1".parse().unwrap(), Status::Completed).into()
}

/// Of which the first commits fail, hang or panic, and then work.
#[derive(Clone)]
struct Odd {
    ledger: MemoryLedger,
    commits: Arc<AtomicUsize>,
    odd: usize,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum How {
    Fails,
    Hangs,
    Panics,
}

impl Odd {
    fn new(odd: usize, how: How) -> Self {
        Self {
            ledger: MemoryLedger::new(),
            commits: Arc::default(),
            odd,
            how,
        }
    }
}

impl Ledger for Odd {
    type Error = &'static str;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        tokio::task::yield_now().await;
        Ok(self
            .ledger
            .claim(event, lease)
            .await
            .unwrap_or_else(|never: Infallible| match never {}))
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        tokio::task::yield_now().await;
        if self.commits.fetch_add(1, Ordering::SeqCst) < self.odd {
            match self.how {
                How::Fails => return Err("it fails"),
                How::Hangs => pending().await,
                How::Panics => std::panic::resume_unwind(Box::new(())),
            }
        }
        Ok(self
            .ledger
            .commit(event, token)
            .await
            .unwrap_or_else(|never| match never {}))
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        tokio::task::yield_now().await;
        self.ledger
            .release(event, token)
            .await
            .unwrap_or_else(|never| match never {});
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_hangs_is_waited_for_until_the_lease_has_expired() {
    let background = Background::new();
    let jobs = DedupeLayer::new(Odd::new(usize::MAX, How::Hangs))
        .with_lease(Duration::from_secs(60))
        .with_ledger_timeout(None)
        .layer(JobRouter::new().on_completed(|_| async {}));
    let given_up = timeout(
        Duration::from_secs(1),
        jobs.oneshot(tracked(&background, event())),
    )
    .await;
    assert!(given_up.is_err());
    let left = background.drain(sleep(Duration::from_secs(120))).await;
    assert_eq!(left, 0, "the lease was over a minute ago");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_does_not_outlast_the_lease() {
    let background = Background::new();
    let jobs = DedupeLayer::new(Odd::new(usize::MAX, How::Hangs))
        .with_lease(Duration::from_secs(2))
        .with_ledger_timeout(Duration::from_secs(300))
        .layer(JobRouter::new().on_completed(|_| async {}));
    let given_up = timeout(
        Duration::from_secs(1),
        jobs.oneshot(tracked(&background, event())),
    )
    .await;
    assert!(given_up.is_err());
    let started = Instant::now();
    let left = background.drain(sleep(Duration::from_secs(60))).await;
    assert_eq!(left, 0, "after {:?}", started.elapsed());
}

/// However it goes wrong at first, a success is recorded, with any timeout and any lease.
#[tokio::test(start_paused = true)]
async fn a_success_is_recorded_at_last() {
    for how in [How::Fails, How::Panics, How::Hangs] {
        for limit in [None, Some(1), Some(5_000), Some(u64::MAX)] {
            for lease in [Duration::from_secs(600), Duration::MAX] {
                if how == How::Hangs && limit.is_none_or(|limit| limit > 10_000) {
                    continue;
                }
                let ledger = Odd::new(7, how);
                let background = Background::new().with_capacity(1);
                let event = tracked(&background, event());
                let full = background.run(JobRouter::new(), event.clone());
                let jobs = DedupeLayer::new(ledger.clone())
                    .with_lease(lease)
                    .with_ledger_timeout(limit.map(Duration::from_millis))
                    .layer(JobRouter::new().on_completed(|_| async {}));
                let outcome = timeout(Duration::from_secs(500), jobs.clone().oneshot(event)).await;
                let outcome = outcome.expect("it never ends");
                assert!(
                    outcome.as_ref().map_or_else(
                        |error| error.kind() == ErrorKind::LedgerUnavailable,
                        |receipt| *receipt == Receipt::Handled,
                    ),
                    "{how:?} {limit:?} {outcome:?}"
                );
                drop(full);
                assert_eq!(background.drain(sleep(Duration::from_secs(590))).await, 0);
                assert_eq!(
                    ledger.ledger.settled(),
                    1,
                    "{how:?} {limit:?} {lease:?} {outcome:?}"
                );
            }
        }
    }
}

/// Dropped at each of its polls, a delivery whose callback has succeeded is recorded, and another is a duplicate or runs
/// the callback: nothing is lost.
#[tokio::test]
async fn dropped_at_each_poll() {
    for polls in 0..12 {
        let ledger = Odd::new(1, How::Fails);
        let background = Background::new();
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = ran.clone();
        let jobs =
            DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(move |_| {
                let counted = counted.clone();
                async move {
                    tokio::task::yield_now().await;
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }));
        let mut delivery = Box::pin(jobs.clone().oneshot(tracked(&background, event())));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|context| {
                std::task::Poll::Ready(delivery.as_mut().poll(context).is_ready())
            });
            if polled.await {
                break;
            }
            tokio::task::yield_now().await;
            sleep(Duration::from_millis(2)).await;
        }
        drop(delivery);
        assert_eq!(background.drain(sleep(Duration::from_secs(5))).await, 0);
        let succeeded = ran.load(Ordering::SeqCst);
        assert_eq!(ledger.ledger.settled(), succeeded, "after {polls} polls");
        if ledger.ledger.in_flight() > 0 {
            // Dropped as it claimed.
            assert_eq!(succeeded, 0);
        }
    }
}

/// Without timers there is no pause; still the success is told once more.
#[test]
fn without_timers() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for how in [How::Fails, How::Panics] {
        let ledger = Odd::new(1, how);
        let jobs =
            DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(|_| async {}));
        let outcome = runtime.block_on(jobs.oneshot(event()));
        assert_eq!(outcome.unwrap(), Receipt::Handled, "{how:?}");
        assert_eq!(ledger.ledger.settled(), 1);
    }
}
