//! Each event is handled once: duplicates, stale events, and the end of a claim.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook::{DedupeLayer, ErrorKind, Job, JobEvent, JobRouter, Receipt, Status};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer as _, Service, ServiceExt as _, service_fn};

use crate::support::Log;

const LEASE: Duration = Duration::from_secs(60);

fn job(guid: &str, status: Status, updated_at: impl Into<Option<i64>>) -> Job {
    let mut job = Job::new(guid.parse().unwrap(), status);
    job.updated_at = updated_at.into().map(Timestamp::from_unix_seconds);
    job
}

fn name(guid: &str, status: Status, updated_at: impl Into<Option<i64>>) -> EventName {
    EventName::of(&job(guid, status, updated_at).into())
}

fn completed(updated_at: i64) -> JobEvent {
    job("JOB-1", Status::Completed, updated_at).into()
}

fn logging(log: &Log) -> JobRouter {
    let log = log.clone();
    let callback = move |event: JobEvent| {
        log.push(EventName::of(&event).to_string());
        async {}
    };
    JobRouter::new()
        .on_completed(callback.clone())
        .on_challenged(callback)
}

#[tokio::test]
async fn duplicates_and_stale_events_are_acknowledged_without_a_callback() {
    use Receipt::{Duplicate, Handled, Stale};
    use Status::{Challenged, Completed};
    let (log, stale) = (Log::default(), Log::default());
    let seen = stale.clone();
    let jobs = DedupeLayer::new(MemoryLedger::new())
        .on_stale(move |event| {
            seen.push(EventName::of(&event).to_string());
            async {}
        })
        .layer(logging(&log));
    let cases = [
        ("the first", job("JOB-1", Challenged, 10), Handled),
        ("again", job("JOB-1", Challenged, 10), Duplicate),
        (
            "challenged a second time",
            job("JOB-1", Challenged, 20),
            Handled,
        ),
        (
            "the first, in a late retry",
            job("JOB-1", Challenged, 10),
            Duplicate,
        ),
        (
            "an earlier one that was never delivered",
            job("JOB-1", Challenged, 15),
            Stale,
        ),
        (
            "completed in the same second",
            job("JOB-1", Completed, 20),
            Handled,
        ),
        (
            "challenged before, delivered after",
            job("JOB-1", Challenged, 19),
            Stale,
        ),
        (
            "an older date of another job",
            job("JOB-2", Challenged, 5),
            Handled,
        ),
        ("without a time", job("JOB-1", Challenged, None), Handled),
        (
            "without a time, again",
            job("JOB-1", Challenged, None),
            Duplicate,
        ),
        ("and later", job("JOB-1", Completed, 30), Handled),
    ];
    for (case, job, expected) in cases {
        let receipt = jobs.clone().oneshot(job.into()).await.unwrap();
        assert_eq!(receipt, expected, "{case}");
    }
    assert_eq!(log.entries().len(), 6);
    assert_eq!(
        stale.entries(),
        ["JOB-1 CHALLENGED 15", "JOB-1 CHALLENGED 19"]
    );
}

/// An unhandled event does not make another event stale.
#[tokio::test]
async fn an_unhandled_event_is_not_remembered() {
    let log = Log::default();
    let seen = log.clone();
    let fails_once = JobRouter::new().on_completed(move |_| {
        seen.push("ran");
        let first = seen.entries().len() == 1;
        async move {
            if first {
                Err("the database is down")
            } else {
                Ok(())
            }
        }
    });
    let ledger = MemoryLedger::new();
    let jobs = DedupeLayer::new(ledger.clone()).layer(fails_once);
    let later: JobEvent = job("JOB-1", Status::from("ARCHIVED"), 21).into();
    assert!(jobs.clone().oneshot(completed(20)).await.is_err());
    for _ in 0..2 {
        let receipt = jobs.clone().oneshot(later.clone()).await.unwrap();
        assert_eq!(receipt, Receipt::Unhandled);
    }
    assert_eq!(jobs.oneshot(completed(20)).await.unwrap(), Receipt::Handled);
    assert_eq!((ledger.settled(), ledger.in_flight()), (1, 0));
}

#[tokio::test]
async fn a_stale_event_is_retried_if_its_hook_fails() {
    let ledger = MemoryLedger::new();
    let jobs = DedupeLayer::new(ledger.clone())
        .on_stale(|_| async { Err("no") })
        .layer(logging(&Log::default()));
    jobs.clone().oneshot(completed(20)).await.unwrap();
    for _ in 0..2 {
        let error = jobs.clone().oneshot(completed(10)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CallbackFailed);
    }
    assert_eq!(ledger.in_flight(), 0);
}

#[tokio::test]
async fn a_duplicate_in_flight_is_refused_and_the_retry_after_a_failure_runs() {
    let gate = Arc::new(Semaphore::new(0));
    let (log, opened) = (Log::default(), gate.clone());
    let seen = log.clone();
    let router = JobRouter::new().on_completed(move |_| {
        let (seen, opened) = (seen.clone(), opened.clone());
        async move {
            seen.push("started");
            opened.acquire().await.unwrap().forget();
            if seen.entries().len() == 1 {
                Err("the first fails")
            } else {
                Ok(())
            }
        }
    });
    let jobs = DedupeLayer::new(MemoryLedger::new()).layer(router);
    let first = tokio::spawn(jobs.clone().oneshot(completed(1)));
    while log.entries().is_empty() {
        tokio::task::yield_now().await;
    }
    let duplicate = jobs.clone().oneshot(completed(1)).await.unwrap_err();
    assert_eq!(duplicate.kind(), ErrorKind::InFlight);
    gate.add_permits(2);
    assert_eq!(
        first.await.unwrap().unwrap_err().kind(),
        ErrorKind::CallbackFailed
    );
    assert_eq!(
        jobs.clone().oneshot(completed(1)).await.unwrap(),
        Receipt::Handled
    );
    assert_eq!(
        jobs.oneshot(completed(1)).await.unwrap(),
        Receipt::Duplicate
    );
}

/// Every end of a delivery without success releases the claim.
#[tokio::test]
async fn every_unsuccessful_end_of_a_delivery_releases_the_claim() {
    let ledger = MemoryLedger::new();
    let layer = DedupeLayer::new(ledger.clone());

    let fails = layer.layer(service_fn(|_| async { Err::<(), BoxError>("no".into()) }));
    assert!(fails.oneshot(completed(1)).await.is_err());
    assert_eq!(ledger.in_flight(), 0, "it failed");

    let quietly = |_: JobEvent| -> std::future::Ready<Result<(), BoxError>> {
        std::panic::resume_unwind(Box::new(()))
    };
    let outcome = layer.layer(service_fn(quietly)).oneshot(completed(1)).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::CallbackPanicked);
    assert_eq!(ledger.in_flight(), 0, "the callback panicked in its call");

    let later = service_fn(|_| async {
        tokio::task::yield_now().await;
        if true {
            std::panic::resume_unwind(Box::new(()));
        }
        Ok::<_, BoxError>(())
    });
    let outcome = layer.layer(later).oneshot(completed(1)).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::CallbackPanicked);
    assert_eq!(ledger.in_flight(), 0, "the callback panicked later");

    let stalls = layer.layer(service_fn(|_| {
        std::future::pending::<Result<(), BoxError>>()
    }));
    let mut dropped = Box::pin(stalls.oneshot(completed(1)));
    let context = &mut Context::from_waker(Waker::noop());
    assert!(dropped.as_mut().poll(context).is_pending());
    assert_eq!(ledger.in_flight(), 1);
    drop(dropped);
    assert_eq!(ledger.in_flight(), 0, "the delivery was dropped");
    assert_eq!(ledger.settled(), 0);
}

#[tokio::test]
async fn a_callback_receives_a_growing_fencing_token() {
    let log = Log::default();
    let seen = log.clone();
    let router = JobRouter::new().on_completed(move |event| {
        seen.push(event.fencing_token().unwrap().get().to_string());
        async { Err("again") }
    });
    let jobs = DedupeLayer::new(MemoryLedger::new()).layer(router);
    for _ in 0..2 {
        assert!(jobs.clone().oneshot(completed(1)).await.is_err());
    }
    let tokens: Vec<u64> = log.entries().iter().map(|it| it.parse().unwrap()).collect();
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

/// Each call needs its own `poll_ready`.
struct ReadyOnce(bool);

impl Clone for ReadyOnce {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Service<JobEvent> for ReadyOnce {
    type Response = ();
    type Error = Infallible;
    type Future = std::future::Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: JobEvent) -> Self::Future {
        assert!(
            std::mem::take(&mut self.0),
            "called without having been ready"
        );
        std::future::ready(Ok(()))
    }
}

#[tokio::test]
async fn the_inner_service_is_called_only_when_ready() {
    let mut jobs = DedupeLayer::new(MemoryLedger::new()).layer(ReadyOnce(false));
    for updated_at in 0..3 {
        let ready = jobs.ready().await.unwrap();
        ready.call(completed(updated_at)).await.unwrap();
    }
}

#[cfg(feature = "tokio")]
mod faults;

mod memory {
    use super::*;

    async fn claim(ledger: &MemoryLedger, event: &EventName) -> Option<FencingToken> {
        match ledger.claim(event, LEASE).await {
            Ok(Claim::Granted(token)) => Some(token),
            _ => None,
        }
    }

    async fn settle(ledger: &MemoryLedger, event: &EventName) {
        let token = claim(ledger, event).await.unwrap();
        assert_eq!(ledger.commit(event, token).await, Ok(Commit::Settled));
    }

    fn numbered(number: usize) -> EventName {
        name(&format!("JOB-{number}"), Status::Completed, 1)
    }

    #[tokio::test]
    async fn past_the_capacity_the_oldest_settled_events_go_and_claims_stay() {
        let ledger = MemoryLedger::new().with_capacity(3);
        let held = claim(&ledger, &numbered(100)).await.unwrap();
        for number in 0..5 {
            settle(&ledger, &numbered(number)).await;
        }
        assert_eq!((ledger.settled(), ledger.in_flight()), (3, 1));
        assert!(claim(&ledger, &numbered(1)).await.is_some(), "forgotten");
        for number in 2..5 {
            assert_eq!(
                ledger.claim(&numbered(number), LEASE).await,
                Ok(Claim::Settled)
            );
        }
        assert_eq!(
            ledger.claim(&numbered(100), LEASE).await,
            Ok(Claim::InFlight)
        );
        assert_eq!(
            ledger.commit(&numbered(100), held).await,
            Ok(Commit::Settled)
        );
    }

    #[tokio::test]
    async fn a_jobs_latest_date_is_forgotten_with_its_last_event() {
        let ledger = MemoryLedger::new().with_capacity(1);
        settle(&ledger, &name("JOB-1", Status::Challenged, 10)).await;
        settle(&ledger, &name("JOB-1", Status::Completed, 20)).await;
        let older = name("JOB-1", Status::Challenged, 15);
        assert_eq!(ledger.claim(&older, LEASE).await, Ok(Claim::Stale));
        settle(&ledger, &numbered(2)).await;
        assert!(claim(&ledger, &older).await.is_some());
    }

    #[cfg(feature = "tokio")]
    #[tokio::test(start_paused = true)]
    async fn a_settled_event_is_remembered_for_exactly_the_window() {
        let ledger = MemoryLedger::new();
        settle(&ledger, &numbered(1)).await;
        tokio::time::sleep(Duration::from_secs(48 * 3600 - 1)).await;
        assert_eq!(ledger.claim(&numbered(1), LEASE).await, Ok(Claim::Settled));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(claim(&ledger, &numbered(1)).await.is_some());
        assert_eq!((ledger.settled(), ledger.in_flight()), (0, 1));
    }

    /// As in the other ledgers, the longest lease is a century.
    #[cfg(feature = "tokio")]
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_clock_cannot_express_outlasts_years() {
        const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
        let ledger = MemoryLedger::new();
        let claim = ledger.claim(&numbered(1), Duration::MAX).await;
        assert!(matches!(claim, Ok(Claim::Granted(_))));
        tokio::time::advance(2 * YEAR).await;
        assert_eq!(ledger.claim(&numbered(1), LEASE).await, Ok(Claim::InFlight));
    }

    #[tokio::test]
    async fn a_window_of_zero_forgets_a_settled_event_at_once() {
        let ledger = MemoryLedger::new().with_window(Duration::ZERO);
        settle(&ledger, &numbered(1)).await;
        assert!(claim(&ledger, &numbered(1)).await.is_some());
    }

    #[tokio::test]
    async fn an_event_is_in_flight_until_it_is_settled_or_released() {
        let ledger = MemoryLedger::new();
        assert_eq!((ledger.settled(), ledger.in_flight()), (0, 0));
        let token = claim(&ledger, &numbered(1)).await.unwrap();
        assert_eq!((ledger.settled(), ledger.in_flight()), (0, 1));
        ledger.release(&numbered(1), token).await.unwrap();
        assert_eq!((ledger.settled(), ledger.in_flight()), (0, 0));
        settle(&ledger, &numbered(1)).await;
        assert_eq!((ledger.settled(), ledger.in_flight()), (1, 0));
    }

    #[test]
    fn printing_the_ledger_shows_its_capacity_and_its_window() {
        let default = format!("{:?}", MemoryLedger::new());
        assert!(
            default.contains("capacity: 100000, window: 172800s"),
            "{default}"
        );
        let set = MemoryLedger::new()
            .with_capacity(10_000)
            .with_window(Duration::from_secs(86_400));
        let set = format!("{set:?}");
        assert!(set.contains("capacity: 10000, window: 86400s"), "{set}");
    }

    #[cfg(feature = "tokio")]
    #[tokio::test(start_paused = true)]
    async fn a_success_is_recorded_after_its_lease_expired() {
        let ledger = MemoryLedger::new();
        let [running, failed, alone] = [numbered(1), numbered(2), numbered(3)];
        let mut slow = Vec::new();
        for event in [&running, &failed, &alone] {
            slow.push(claim(&ledger, event).await.unwrap());
        }
        tokio::time::sleep(LEASE).await;
        let fast = claim(&ledger, &running).await.unwrap();
        assert!(fast > slow[0]);
        ledger.release(&running, slow[0]).await.unwrap();
        assert_eq!(ledger.claim(&running, LEASE).await, Ok(Claim::InFlight));
        let failing = claim(&ledger, &failed).await.unwrap();
        ledger.release(&failed, failing).await.unwrap();

        for (event, slow) in [&running, &failed, &alone].into_iter().zip(slow) {
            for _ in 0..2 {
                assert_eq!(ledger.commit(event, slow).await, Ok(Commit::Settled));
            }
        }
        assert_eq!(ledger.commit(&running, fast).await, Ok(Commit::Overtaken));
        ledger.release(&running, fast).await.unwrap();
        for event in [&running, &failed, &alone] {
            assert_eq!(ledger.claim(event, LEASE).await, Ok(Claim::Settled));
        }
        assert_eq!((ledger.settled(), ledger.in_flight()), (3, 0));
    }

    /// A late commit of a forgotten event is recorded and can be forgotten again.
    #[tokio::test]
    async fn a_success_of_a_forgotten_event_is_recorded() {
        let ledger = MemoryLedger::new().with_capacity(1);
        let token = claim(&ledger, &numbered(1)).await.unwrap();
        for _ in 0..2 {
            let commit = ledger.commit(&numbered(1), token).await;
            assert_eq!(commit, Ok(Commit::Settled));
            assert_eq!(ledger.claim(&numbered(1), LEASE).await, Ok(Claim::Settled));
            // The capacity is one event, so another one takes its place.
            let commit = ledger.commit(&numbered(2), token).await;
            assert_eq!(commit, Ok(Commit::Settled));
            assert_eq!((ledger.settled(), ledger.in_flight()), (1, 0));
        }
        let later = FencingToken::new(token.get() + 1_000_000_000);
        let commit = ledger.commit(&numbered(3), later).await;
        assert_eq!(commit, Ok(Commit::Settled));
        let next = claim(&ledger, &numbered(4)).await.unwrap();
        assert!(next > later, "tokens have to grow");
    }

    #[tokio::test]
    async fn a_date_in_the_future_makes_no_event_stale() {
        let ledger = MemoryLedger::new();
        // This date is in milliseconds.
        settle(
            &ledger,
            &name("JOB-1", Status::Challenged, 1_471_281_212_000),
        )
        .await;
        settle(&ledger, &name("JOB-1", Status::Challenged, 1_471_281_213)).await;
        let earlier = name("JOB-1", Status::Challenged, 1_471_281_212);
        assert_eq!(ledger.claim(&earlier, LEASE).await, Ok(Claim::Stale));
    }

    #[tokio::test]
    async fn a_commit_can_be_retried_if_its_answer_was_lost() {
        let (ledger, event) = (MemoryLedger::new(), numbered(1));
        let token = claim(&ledger, &event).await.unwrap();
        for _ in 0..2 {
            assert_eq!(ledger.commit(&event, token).await, Ok(Commit::Settled));
        }
        assert_eq!(ledger.settled(), 1);
        let other = FencingToken::new(token.get() + 1);
        assert_eq!(ledger.commit(&event, other).await, Ok(Commit::Overtaken));
    }

    #[tokio::test]
    async fn tokens_keep_growing_after_a_restart() {
        let before = claim(&MemoryLedger::new(), &numbered(1)).await.unwrap();
        std::thread::sleep(Duration::from_millis(2));
        let after = claim(&MemoryLedger::new(), &numbered(1)).await.unwrap();
        assert!(after > before);
    }

    #[tokio::test]
    async fn a_lease_beyond_the_clocks_range_is_a_long_lease() {
        let (ledger, event) = (MemoryLedger::new(), numbered(1));
        let claim = ledger.claim(&event, Duration::MAX).await;
        assert!(matches!(claim, Ok(Claim::Granted(_))));
        assert_eq!(ledger.claim(&event, LEASE).await, Ok(Claim::InFlight));
    }

    /// Many threads and few events: at most one thread holds an event at a time, and none after it is
    /// settled.
    #[test]
    fn only_one_of_many_threads_holds_an_event() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        const EVENTS: usize = 4;
        const ROUNDS: usize = 200;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for round in 0..ROUNDS {
            let ledger = MemoryLedger::new();
            let holders: [AtomicUsize; EVENTS] = Default::default();
            let settled: [AtomicUsize; EVENTS] = Default::default();
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let (ledger, holders, settled) = (&ledger, &holders, &settled);
                    let runtime = runtime.handle().clone();
                    scope.spawn(move || {
                        for turn in 0..20 {
                            let number = (thread + turn) % EVENTS;
                            let event = numbered(number);
                            let Some(token) = runtime.block_on(claim(ledger, &event)) else {
                                continue;
                            };
                            let before = holders[number].fetch_add(1, Ordering::SeqCst);
                            assert_eq!(before, 0, "two threads held the event");
                            assert_eq!(
                                settled[number].load(Ordering::SeqCst),
                                0,
                                "the event was already settled"
                            );
                            std::thread::yield_now();
                            holders[number].fetch_sub(1, Ordering::SeqCst);
                            if (thread * 7 + turn + round) % 5 == 0 {
                                settled[number].fetch_add(1, Ordering::SeqCst);
                                let commit = runtime.block_on(ledger.commit(&event, token));
                                assert_eq!(commit, Ok(Commit::Settled));
                            } else {
                                runtime.block_on(ledger.release(&event, token)).unwrap();
                            }
                        }
                    });
                }
            });
            assert_eq!(ledger.in_flight(), 0);
            let settled: usize = settled.iter().map(|it| it.load(Ordering::SeqCst)).sum();
            assert_eq!(ledger.settled(), settled);
        }
    }
}

/// Tests that need the feature `tokio`.
#[cfg(feature = "tokio")]
mod on_tokio {
    use mx_job_webhook::{Background, Credentials, JobWebhook};
    use tower::ServiceBuilder;

    use super::*;
    use crate::support::{SAMPLE, delivery, within};

    /// A ledger behind a network: no call completes at once.
    #[derive(Clone)]
    struct Remote(MemoryLedger, Log);

    impl Ledger for Remote {
        type Error = Infallible;

        async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Infallible> {
            tokio::task::yield_now().await;
            self.0.claim(event, lease).await
        }

        async fn commit(
            &self,
            event: &EventName,
            token: FencingToken,
        ) -> Result<Commit, Infallible> {
            tokio::task::yield_now().await;
            self.0.commit(event, token).await
        }

        async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Infallible> {
            tokio::task::yield_now().await;
            self.1.push("released");
            self.0.release(event, token).await
        }
    }

    #[tokio::test]
    async fn a_claim_in_a_remote_ledger_is_released_before_the_drain_ends() {
        let ledger = Remote(MemoryLedger::new(), Log::default());
        let stalls = service_fn(|_| std::future::pending::<Result<(), BoxError>>());
        // The claim is released regardless of capacity and shutdown.
        let background = Background::new().with_capacity(1);
        let jobs = DedupeLayer::new(ledger.clone()).layer(stalls);
        let mut delivery = Box::pin(within(&background, jobs.oneshot(completed(1))));
        let context = &mut Context::from_waker(Waker::noop());
        // The delivery waits for the claim, and then for the callback.
        for _ in 0..2 {
            assert!(delivery.as_mut().poll(context).is_pending());
        }
        let full = background.run(JobRouter::new(), completed(2));
        drop(delivery);
        assert_eq!((ledger.0.in_flight(), background.running()), (1, 2));
        drop(full);
        assert_eq!(background.drain(std::future::pending::<()>()).await, 0);
        assert_eq!(ledger.1.entries(), ["released"]);
        assert_eq!(ledger.0.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_commit_that_is_dropped_midway_finishes() {
        let ledger = Remote(MemoryLedger::new(), Log::default());
        let background = Background::new();
        let jobs =
            DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(|_| async {}));
        let mut delivery = Box::pin(within(&background, jobs.oneshot(completed(1))));
        let context = &mut Context::from_waker(Waker::noop());
        // The delivery waits for the claim, and then for the commit.
        for _ in 0..2 {
            assert!(delivery.as_mut().poll(context).is_pending());
        }
        assert_eq!((ledger.0.settled(), ledger.0.in_flight()), (0, 1));
        drop(delivery);
        assert_eq!(background.drain(std::future::pending::<()>()).await, 0);
        assert_eq!((ledger.0.settled(), ledger.0.in_flight()), (1, 0));
    }

    /// A ledger that is unreachable at first.
    struct Blip(Remote, std::sync::atomic::AtomicBool);

    impl Ledger for Blip {
        type Error = &'static str;

        async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
            let Ok(claim) = self.0.claim(event, lease).await;
            Ok(claim)
        }

        async fn commit(
            &self,
            event: &EventName,
            token: FencingToken,
        ) -> Result<Commit, Self::Error> {
            if !self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
                return Err("connection reset");
            }
            let Ok(commit) = self.0.commit(event, token).await;
            Ok(commit)
        }

        async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
            let Ok(()) = self.0.release(event, token).await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_failed_commit_is_tried_a_second_time() {
        let ledger = Remote(MemoryLedger::new(), Log::default());
        let jobs = DedupeLayer::new(Blip(ledger.clone(), false.into()))
            .layer(JobRouter::new().on_completed(|_| async {}));
        assert_eq!(jobs.oneshot(completed(1)).await.unwrap(), Receipt::Handled);
        assert_eq!(ledger.0.settled(), 1);
    }

    /// A success that was answered 204 stays recorded, even if another delivery took the event over
    /// and failed.
    #[tokio::test(start_paused = true)]
    async fn a_slow_callbacks_success_stays_recorded_if_the_delivery_that_took_over_fails() {
        let log = Log::default();
        let seen = log.clone();
        let router = JobRouter::new().on_completed(move |_| {
            seen.push("started");
            let is_first = seen.entries().len() == 1;
            async move {
                tokio::time::sleep(LEASE * 2).await;
                if is_first {
                    Ok(())
                } else {
                    Err("the bank is down")
                }
            }
        });
        let ledger = MemoryLedger::new();
        let jobs = DedupeLayer::new(ledger.clone())
            .with_lease(LEASE)
            .layer(router);
        let slow = tokio::spawn(jobs.clone().oneshot(completed(1)));
        tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
        let overtaker = tokio::spawn(jobs.clone().oneshot(completed(1)));
        assert_eq!(slow.await.unwrap().unwrap(), Receipt::Handled);
        let overtaker = overtaker.await.unwrap().unwrap_err();
        assert_eq!(overtaker.kind(), ErrorKind::CallbackFailed);
        let retry = jobs.oneshot(completed(1)).await.unwrap();
        assert_eq!(retry, Receipt::Duplicate);
        assert_eq!(log.entries().len(), 2);
        assert_eq!((ledger.settled(), ledger.in_flight()), (1, 0));
    }

    /// The second of two events with an unreadable date has its callback too.
    #[tokio::test]
    async fn events_with_unreadable_dates_all_run_their_callbacks() {
        let dates = [
            [r#""1471281212""#, r#""1471281218""#],
            [r#""2016-08-15T17:13:32""#, r#""2016-08-15T17:13:38""#],
            [r#"{"seconds":1471281212}"#, r#"{"seconds":1471281218}"#],
            ["9223372036854775808", "9223372036854775809"],
            [
                r#""2022-06-16T18:42:43.100Z""#,
                r#""2022-06-16T18:42:43.900Z""#,
            ],
            [r#"null,"new":1"#, r#"null,"new":2"#],
        ];
        for dates in dates {
            let jobs = DedupeLayer::new(MemoryLedger::new()).layer(logging(&Log::default()));
            let mut receipts = Vec::new();
            for date in [dates[0], dates[1], dates[0], dates[1]] {
                let event = JobEvent::decode(format!(
                    r#"{{"job":{{"guid":"JOB-1","status_name":"CHALLENGED","updated_at":{date}}}}}"#
                ));
                receipts.push(jobs.clone().oneshot(event.unwrap()).await.unwrap());
            }
            use Receipt::{Duplicate, Handled};
            assert_eq!(
                receipts,
                [Handled, Handled, Duplicate, Duplicate],
                "{dates:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_retry_after_a_hang_up_is_a_duplicate() {
        let background = Background::new();
        let log = Log::default();
        let seen = log.clone();
        let router = JobRouter::new().on_completed(move |_| {
            let seen = seen.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(20)).await;
                seen.push("finished");
            }
        });
        let jobs = ServiceBuilder::new()
            .layer(DedupeLayer::new(MemoryLedger::new()))
            .service(router);
        let hangs_up = background.run(jobs.clone(), completed(1));
        assert!(
            tokio::time::timeout(Duration::from_secs(1), hangs_up)
                .await
                .is_err()
        );
        assert_eq!(background.running(), 1);
        let error = background
            .run(jobs.clone(), completed(1))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InFlight);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(background.running(), 0);
        let retry = background.run(jobs, completed(1)).await;
        assert_eq!(retry.unwrap(), Receipt::Duplicate);
        assert_eq!(log.entries(), ["finished"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_retry_of_a_delivery_past_the_answer_deadline_is_acknowledged() {
        let log = Log::default();
        let seen = log.clone();
        let router = JobRouter::new().on_completed(move |_| {
            let seen = seen.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(20)).await;
                seen.push("finished");
            }
        });
        let jobs = DedupeLayer::new(MemoryLedger::new()).layer(router);
        let endpoint = JobWebhook::new(Credentials::unauthenticated(), jobs)
            .with_answer_deadline(Duration::from_secs(5));
        let mut answers = Vec::new();
        for _ in 0..3 {
            let answer = endpoint.clone().oneshot(delivery(SAMPLE)).await.unwrap();
            answers.push(answer.status().as_u16());
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert_eq!(answers, [503, 503, 204]);
        assert_eq!(log.entries(), ["finished"]);
    }
}

#[tokio::test]
async fn an_event_without_dedupe_has_no_fencing_token() {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { event.fencing_token().map(drop).ok_or("not claimed") });
    assert!(jobs.clone().oneshot(completed(1)).await.is_err());
    let jobs = DedupeLayer::new(MemoryLedger::new()).layer(jobs);
    assert_eq!(jobs.oneshot(completed(1)).await.unwrap(), Receipt::Handled);
}

/// A ledger that records the leases it is asked for.
struct RecordsLeases(MemoryLedger, std::sync::Mutex<Vec<Duration>>);

impl Ledger for &'static RecordsLeases {
    type Error = Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Infallible> {
        self.1.lock().unwrap().push(lease);
        self.0.claim(event, lease).await
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Infallible> {
        self.0.commit(event, token).await
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Infallible> {
        self.0.release(event, token).await
    }
}

#[tokio::test]
async fn a_claims_lease_can_be_set_and_defaults_to_ten_minutes() {
    use mx_job_webhook::dedupe::Dedupe;

    let ledger: &'static RecordsLeases = Box::leak(Box::new(RecordsLeases(
        MemoryLedger::new(),
        std::sync::Mutex::default(),
    )));
    let layer = DedupeLayer::new(ledger);
    let layers = [layer.clone(), layer.with_lease(Duration::from_secs(3_600))];
    for (date, layer) in (1..).zip(layers) {
        let jobs: Dedupe<JobRouter, _> = layer.layer(logging(&Log::default()));
        jobs.oneshot(completed(date)).await.unwrap();
    }
    let leases = ledger.1.lock().unwrap().clone();
    assert_eq!(leases, [600, 3_600].map(Duration::from_secs));
}

#[test]
fn printing_dedupe_shows_the_lease_and_the_inner_service() {
    let layer = DedupeLayer::new(MemoryLedger::new()).with_lease(Duration::from_secs(3_600));
    assert_eq!(format!("{layer:?}"), "DedupeLayer { lease: 3600s, .. }");
    let jobs = layer.layer(JobRouter::new());
    assert!(format!("{jobs:?}").contains("JobRouter"), "{jobs:?}");
}

#[test]
fn the_name_of_an_event_has_the_guid_and_the_status() {
    let name = name("JOB-1", Status::Denied, None);
    assert_eq!(name.guid(), "JOB-1");
    assert_eq!(name.status(), &Status::Denied);
}

#[test]
fn a_webhook_and_a_poll_with_the_same_date_are_one_event() {
    let webhook = r#"{"job": {"guid": "JOB-1", "status": 6, "updated_at": 1655404963}}"#;
    let polled =
        r#"{"job": {"guid": "JOB-1", "status": 6, "updated_at": "2022-06-16T18:42:43.000Z"}}"#;
    let [webhook, polled] =
        [webhook, polled].map(|body| EventName::of(&JobEvent::decode(body).unwrap()));
    assert_eq!(webhook, polled);
}

/// `MemoryLedger::in_flight`: events that are "neither settled nor released". A stale event whose lease has expired is none of them.
#[tokio::test]
async fn a_stale_event_whose_lease_has_expired_is_not_in_flight() {
    let ledger = MemoryLedger::new();
    let old = name("JOB-1", Status::Challenged, 1);
    let new = name("JOB-1", Status::Completed, 2);
    let claim = ledger.claim(&old, Duration::ZERO).await.unwrap();
    assert!(matches!(claim, Claim::Granted(_)));
    let Claim::Granted(token) = ledger.claim(&new, Duration::from_secs(9)).await.unwrap() else {
        panic!("the event is new");
    };
    let _ = ledger.commit(&new, token).await.unwrap();
    let claim = ledger.claim(&old, Duration::ZERO).await.unwrap();
    assert!(matches!(claim, Claim::Stale));
    assert_eq!(ledger.in_flight(), 0);
}
