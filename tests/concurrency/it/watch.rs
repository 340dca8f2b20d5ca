//! The watch in memory: a waiter hears of its event, whenever the event settles.

use std::time::Duration;

use mx_job_webhook_concurrency::job::JobGuid;
use mx_job_webhook_concurrency::watch::{JobWatch, MemoryWatchStore};
use mx_job_webhook_concurrency::{Background, JobRouter, Status};
use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};
use tower::Layer as _;

use crate::support::{background, check, event, hang_up_after, notices, up_to};

/// Timers never fire here, so this is for ever: a waiter that misses its event is a deadlock.
const LONG: Duration = Duration::from_secs(20);

fn job() -> JobGuid {
    "JOB-1".parse().unwrap()
}

/// Delivers an event on a thread of its own.
fn deliver(watch: &JobWatch, background: &Background, status: Status) -> JoinHandle<()> {
    let (jobs, background) = (watch.layer().layer(JobRouter::new()), background.clone());
    thread::spawn(move || {
        block_on(background.run(jobs, event(status))).unwrap();
    })
}

/// Expects the job, waits, and returns the status that was heard.
fn wait(watch: &JobWatch) -> Status {
    let expected = block_on(watch.expect(&job())).unwrap();
    let heard = block_on(expected.within(LONG)).unwrap();
    heard.expect("timers never fire").status.clone()
}

fn is_heard_to_the_end(watch: &JobWatch) {
    let expected = block_on(watch.expect(&job())).unwrap();
    let heard = block_on(expected.within(Duration::ZERO)).unwrap();
    let status = heard.map(|heard| heard.status.clone());
    assert_eq!(status, Some(Status::Completed), "the end was forgotten");
    assert!(
        format!("{watch:?}").contains("waiting: 0"),
        "a waiter is left"
    );
}

/// The event settles before, while or after the job is expected and waited for.
fn one_waiter() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let delivery = deliver(&watch, &background(), Status::Completed);
    assert_eq!(wait(&watch), Status::Completed);
    delivery.join().unwrap();
    is_heard_to_the_end(&watch);
}

/// The same in a process that listens since an earlier waiter. The first waiter of a process also hears by the read
/// that follows the connection.
fn a_later_waiter() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let earlier = block_on(watch.expect(&"JOB-0".parse().unwrap())).unwrap();
    assert_eq!(block_on(earlier.within(Duration::ZERO)).unwrap(), None);
    let delivery = deliver(&watch, &background(), Status::Completed);
    assert_eq!(wait(&watch), Status::Completed);
    delivery.join().unwrap();
    is_heard_to_the_end(&watch);
}

/// Two waiters, of which one gives up at any time and waits again.
fn a_waiter_that_gives_up() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let delivery = deliver(&watch, &background(), Status::Completed);
    let other = {
        let watch = watch.clone();
        thread::spawn(move || wait(&watch))
    };
    let expected = block_on(watch.expect(&job())).unwrap();
    let first = block_on(hang_up_after(up_to(2), expected.within(LONG)));
    let heard = match first {
        Some(heard) => heard,
        None => block_on(expected.within(LONG)),
    };
    assert_eq!(heard.unwrap().unwrap().status, Status::Completed);
    assert_eq!(other.join().unwrap(), Status::Completed);
    delivery.join().unwrap();
    is_heard_to_the_end(&watch);
}

/// The waiter is on another replica than the delivery.
fn two_replicas() {
    let store = MemoryWatchStore::new();
    let [here, there] = [(); 2].map(|()| JobWatch::new(store.clone()));
    let delivery = deliver(&there, &background(), Status::Completed);
    assert_eq!(wait(&here), Status::Completed);
    delivery.join().unwrap();
    is_heard_to_the_end(&here);
}

/// A waiter on each of two replicas.
fn a_waiter_on_each_replica() {
    let store = MemoryWatchStore::new();
    let [here, there] = [(); 2].map(|()| JobWatch::new(store.clone()));
    let other = {
        let there = there.clone();
        thread::spawn(move || wait(&there))
    };
    let delivery = deliver(&there, &background(), Status::Completed);
    assert_eq!(wait(&here), Status::Completed);
    assert_eq!(other.join().unwrap(), Status::Completed);
    delivery.join().unwrap();
    is_heard_to_the_end(&here);
}

/// Two events settle at once: each wakes the waiter, and the one that ends the job stays.
fn a_challenge_and_the_end() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let background = background();
    let deliveries =
        [Status::Challenged, Status::Completed].map(|status| deliver(&watch, &background, status));
    assert!(matches!(
        wait(&watch),
        Status::Challenged | Status::Completed
    ));
    for delivery in deliveries {
        delivery.join().unwrap();
    }
    is_heard_to_the_end(&watch);
}

/// The application has seen the challenge, and waits for what follows.
fn after_a_challenge() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let background = background();
    deliver(&watch, &background, Status::Challenged)
        .join()
        .unwrap();
    let challenge = block_on(watch.expect(&job())).unwrap();
    let challenge = block_on(challenge.within(Duration::ZERO)).unwrap().unwrap();
    let delivery = deliver(&watch, &background, Status::Completed);
    let again = deliver(&watch, &background, Status::Challenged);
    let expected = block_on(watch.expect_after(challenge.name())).unwrap();
    let heard = block_on(expected.within(LONG)).unwrap().unwrap();
    assert_eq!(heard.status, Status::Completed, "the challenge was known");
    delivery.join().unwrap();
    again.join().unwrap();
    is_heard_to_the_end(&watch);
}

#[test]
fn a_waiter_hears_of_an_event_that_settles_at_any_time() {
    check(one_waiter);
}

#[test]
fn a_later_waiter_of_a_process_hears_too() {
    check(a_later_waiter);
}

#[test]
fn a_waiter_that_gives_up_loses_nothing() {
    check(a_waiter_that_gives_up);
}

#[test]
fn a_waiter_hears_of_an_event_that_settles_on_another_replica() {
    check(two_replicas);
}

#[test]
fn waiters_on_two_replicas_both_hear() {
    check(a_waiter_on_each_replica);
}

#[test]
fn two_events_at_once_are_both_recorded() {
    check(a_challenge_and_the_end);
}

#[test]
fn a_waiter_hears_what_follows_a_challenge() {
    check(after_a_challenge);
}

#[test]
fn faults_are_noticed() {
    notices(
        "a waiter does not read what it missed",
        &["deadlock"],
        a_later_waiter_of_a_process_hears_too,
    );
    notices(
        "an unexpected event is recorded under two locks",
        &["deadlock"],
        a_later_waiter_of_a_process_hears_too,
    );
    notices(
        "an entry is compared and replaced under two locks",
        &["the end was forgotten", "deadlock"],
        a_later_waiter_of_a_process_hears_too,
    );
    notices(
        "a listener does not read what it missed",
        &["deadlock"],
        a_waiter_hears_of_an_event_that_settles_on_another_replica,
    );
    notices(
        "one listener is told",
        &["deadlock"],
        waiters_on_two_replicas_both_hear,
    );
}
