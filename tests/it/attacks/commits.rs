//! Attacks on commits that continue in the background.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::within;
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

/// A ledger whose first commits fail, hang or panic; later commits work.
#[derive(Clone)]
struct FailsFirst {
    ledger: MemoryLedger,
    commits: Arc<AtomicUsize>,
    failing: usize,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    Fails,
    Hangs,
    Panics,
}

impl FailsFirst {
    fn new(failing: usize, fault: Fault) -> Self {
        Self {
            ledger: MemoryLedger::new(),
            commits: Arc::default(),
            failing,
            fault,
        }
    }
}

impl Ledger for FailsFirst {
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
        if self.commits.fetch_add(1, Ordering::SeqCst) < self.failing {
            match self.fault {
                Fault::Fails => return Err("it fails"),
                Fault::Hangs => pending().await,
                Fault::Panics => std::panic::resume_unwind(Box::new(())),
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
async fn a_hanging_commit_is_awaited_until_the_lease_has_expired() {
    let background = Background::new();
    let jobs = DedupeLayer::new(FailsFirst::new(usize::MAX, Fault::Hangs))
        .with_lease(Duration::from_secs(60))
        .with_ledger_timeout(None)
        .layer(JobRouter::new().on_completed(|_| async {}));
    let given_up = timeout(
        Duration::from_secs(1),
        within(&background, jobs.oneshot(event())),
    )
    .await;
    assert!(given_up.is_err());
    let left = background.drain(sleep(Duration::from_secs(120))).await;
    assert_eq!(left, 0, "the lease expired a minute ago");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_does_not_outlast_the_lease() {
    let background = Background::new();
    let jobs = DedupeLayer::new(FailsFirst::new(usize::MAX, Fault::Hangs))
        .with_lease(Duration::from_secs(2))
        .with_ledger_timeout(Duration::from_secs(300))
        .layer(JobRouter::new().on_completed(|_| async {}));
    let given_up = timeout(
        Duration::from_secs(1),
        within(&background, jobs.oneshot(event())),
    )
    .await;
    assert!(given_up.is_err());
    let started = Instant::now();
    let left = background.drain(sleep(Duration::from_secs(60))).await;
    assert_eq!(left, 0, "after {:?}", started.elapsed());
}

/// A success is recorded despite any first failure, with any timeout and any lease.
#[tokio::test(start_paused = true)]
async fn a_success_is_recorded_despite_failing_commits() {
    for fault in [Fault::Fails, Fault::Panics, Fault::Hangs] {
        for limit in [None, Some(1), Some(5_000), Some(u64::MAX)] {
            for lease in [Duration::from_secs(600), Duration::MAX] {
                if fault == Fault::Hangs && limit.is_none_or(|limit| limit > 10_000) {
                    continue;
                }
                let ledger = FailsFirst::new(7, fault);
                let background = Background::new().with_capacity(1);
                let jobs = DedupeLayer::new(ledger.clone())
                    .with_lease(lease)
                    .with_ledger_timeout(limit.map(Duration::from_millis))
                    .layer(JobRouter::new().on_completed(|_| async {}));
                let delivery = within(&background, jobs.clone().oneshot(event()));
                let outcome = timeout(Duration::from_secs(500), delivery).await;
                let outcome = outcome.expect("the delivery hangs");
                assert!(
                    outcome.as_ref().map_or_else(
                        |error| error.kind() == ErrorKind::LedgerUnavailable,
                        |receipt| *receipt == Receipt::Handled,
                    ),
                    "{fault:?} {limit:?} {outcome:?}"
                );
                assert_eq!(background.drain(sleep(Duration::from_secs(590))).await, 0);
                assert_eq!(
                    ledger.ledger.settled(),
                    1,
                    "{fault:?} {limit:?} {lease:?} {outcome:?}"
                );
            }
        }
    }
}

/// Drops a delivery at each of its polls. If its callback succeeded, the success is recorded; another delivery is a
/// duplicate or runs the callback. No event is lost.
#[tokio::test]
async fn a_delivery_dropped_at_any_poll_loses_no_event() {
    for polls in 0..12 {
        let ledger = FailsFirst::new(1, Fault::Fails);
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
        let mut delivery = Box::pin(within(&background, jobs.clone().oneshot(event())));
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
            // The delivery was dropped during its claim.
            assert_eq!(succeeded, 0);
        }
    }
}

/// Without timers there is no pause; the commit is still retried once.
#[test]
fn a_failed_commit_is_retried_once_without_timers() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for fault in [Fault::Fails, Fault::Panics] {
        let ledger = FailsFirst::new(1, fault);
        let jobs =
            DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(|_| async {}));
        let outcome = runtime.block_on(jobs.oneshot(event()));
        assert_eq!(outcome.unwrap(), Receipt::Handled, "{fault:?}");
        assert_eq!(ledger.ledger.settled(), 1);
    }
}
