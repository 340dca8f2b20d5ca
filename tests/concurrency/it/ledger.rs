//! The ledger in memory: of any number of deliveries of an event, one claims it, and it is settled once.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use mx_job_webhook_concurrency::event::FencingToken;
use mx_job_webhook_concurrency::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use mx_job_webhook_concurrency::{Background, DedupeLayer, ErrorKind, JobRouter, Receipt, Status};
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::thread;
use tower::Layer as _;

use crate::support::{
    Tally, background, check, check_all, drain, event, hang_up_after, notices, up_to,
};

const LEASE: Duration = Duration::from_secs(60);

fn name() -> EventName {
    EventName::of(&event(Status::Completed))
}

fn claim(ledger: &MemoryLedger, lease: Duration) -> Claim {
    let Ok(claim) = block_on(ledger.claim(&name(), lease));
    claim
}

/// Claims the event, and commits it if it is granted. Returns whether it was.
fn claim_and_commit(ledger: &MemoryLedger) -> bool {
    match claim(ledger, LEASE) {
        Claim::Granted(token) => {
            let Ok(commit) = block_on(ledger.commit(&name(), token));
            assert_eq!(commit, Commit::Settled, "granted to both");
            true
        }
        claim => {
            assert!(matches!(claim, Claim::InFlight | Claim::Settled));
            false
        }
    }
}

fn two_deliveries() {
    let ledger = MemoryLedger::new();
    let other = {
        let ledger = ledger.clone();
        thread::spawn(move || claim_and_commit(&ledger))
    };
    let granted = [claim_and_commit(&ledger), other.join().unwrap()];
    assert_ne!(granted[0], granted[1], "granted to both or to neither");
    assert_eq!(claim(&ledger, LEASE), Claim::Settled);
    assert_eq!((ledger.settled(), ledger.in_flight()), (1, 0));
}

/// A holder whose lease has expired releases, while the next one holds the event.
fn a_late_release() {
    let ledger = MemoryLedger::new();
    let Claim::Granted(first) = claim(&ledger, Duration::ZERO) else {
        panic!("nothing else holds it");
    };
    let late = {
        let ledger = ledger.clone();
        thread::spawn(move || {
            let Ok(()) = block_on(ledger.release(&name(), first));
        })
    };
    let Claim::Granted(second) = claim(&ledger, LEASE) else {
        panic!("the lease has expired");
    };
    assert!(second > first);
    assert_eq!(
        claim(&ledger, LEASE),
        Claim::InFlight,
        "released by another"
    );
    late.join().unwrap();
    assert_eq!(
        claim(&ledger, LEASE),
        Claim::InFlight,
        "released by another"
    );
}

/// A ledger that lets others run before each call takes effect, so that a sender can hang up there.
struct Slow(MemoryLedger);

impl Ledger for Slow {
    type Error = Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Infallible> {
        yield_now().await;
        self.0.claim(event, lease).await
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Infallible> {
        yield_now().await;
        self.0.commit(event, token).await
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Infallible> {
        yield_now().await;
        self.0.release(event, token).await
    }
}

/// Three deliveries of an event through the layer, whose senders hang up at any time.
fn three_deliveries_through_the_layer() {
    let (background, ledger, tally) = (background(), MemoryLedger::new(), Tally::default());
    let callbacks = tally.clone();
    let jobs = DedupeLayer::new(Slow(ledger.clone()))
        .layer(JobRouter::new().on_completed(move |_| callbacks.clone().callback()));
    let senders = [(); 3].map(|()| {
        let (background, jobs, tally) = (background.clone(), jobs.clone(), tally.clone());
        let polls = up_to(6);
        thread::spawn(move || {
            let run = background.run(jobs, event(Status::Completed));
            match block_on(hang_up_after(polls, run)) {
                Some(Ok(Receipt::Handled | Receipt::Duplicate)) => {
                    assert_eq!(tally.finished(), 1, "a receipt before the callback's end");
                }
                Some(outcome) => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InFlight),
                None => {}
            }
            polls > 0
        })
    });
    let called = senders.map(|sender| sender.join().unwrap());
    drain(&background);
    let expected = usize::from(called.contains(&true));
    let ran = (tally.started(), tally.finished());
    assert_eq!(
        ran,
        (expected, expected),
        "the event ran twice or not at all"
    );
    assert_eq!((ledger.settled(), ledger.in_flight()), (expected, 0));
}

/// Two deliveries, of which a callback is dropped before its end, as by a runtime that shuts down.
fn a_callback_that_is_dropped() {
    let (ledger, tally) = (MemoryLedger::new(), Tally::default());
    // The first rest of a callback is dropped. The ledger's answers are still waited for.
    let spawned = Arc::new(AtomicUsize::new(0));
    let background = Background::new().with_spawn(move |task| {
        if spawned.fetch_add(1, SeqCst) > 0 {
            drop(spawn(task));
        }
    });
    let callbacks = tally.clone();
    let jobs = DedupeLayer::new(Slow(ledger.clone()))
        .layer(JobRouter::new().on_completed(move |_| callbacks.clone().callback()));
    let sender = || {
        let (background, jobs, polls) = (background.clone(), jobs.clone(), up_to(5));
        move || {
            let run = background.run(jobs, event(Status::Completed));
            let outcome = block_on(hang_up_after(polls, run));
            matches!(outcome, Some(Ok(_)))
        }
    };
    let other = thread::spawn(sender());
    let is_settled = sender()() | other.join().unwrap();
    drain(&background);
    assert_eq!(ledger.in_flight(), 0, "a claim was kept");
    assert!(tally.finished() >= usize::from(is_settled));
}

#[test]
fn a_claim_is_released_if_its_callback_is_dropped() {
    check(a_callback_that_is_dropped);
}

#[test]
fn of_two_claims_one_is_granted() {
    check_all(two_deliveries);
}

#[test]
fn a_late_release_frees_nothing() {
    check_all(a_late_release);
}

#[test]
fn an_event_that_is_delivered_three_times_at_once_runs_once() {
    check(three_deliveries_through_the_layer);
}

#[test]
fn faults_are_noticed() {
    notices(
        "an event is looked up and claimed under two locks",
        &["granted to both"],
        of_two_claims_one_is_granted,
    );
    notices(
        "a commit releases before it settles",
        &["granted to both"],
        of_two_claims_one_is_granted,
    );
    notices(
        "anyone's release frees an event",
        &["released by another"],
        a_late_release_frees_nothing,
    );
    notices(
        "an event is looked up and claimed under two locks",
        &[
            "a receipt before the callback's end",
            "the event ran twice",
            "left: Err",
        ],
        an_event_that_is_delivered_three_times_at_once_runs_once,
    );
    notices(
        "a dropped delivery keeps its claim",
        &["a claim was kept"],
        a_claim_is_released_if_its_callback_is_dropped,
    );
    notices(
        "a call of a dropped delivery is dropped",
        &["a claim was kept"],
        a_claim_is_released_if_its_callback_is_dropped,
    );
}
