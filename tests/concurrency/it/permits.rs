//! The permits: never more callbacks than the capacity, none after a drain, and none lost.

use mx_job_webhook_concurrency::{Background, ErrorKind, JobRouter, Receipt, Status};
use shuttle::future::{block_on, spawn};
use shuttle::thread;

use crate::support::{
    Tally, background, check, check_all, drain, event, hang_up_after, notices, up_to,
};

fn router(tally: &Tally) -> JobRouter {
    let tally = tally.clone();
    JobRouter::new().on_completed(move |_| tally.clone().callback())
}

/// Three senders, of which two may run.
fn three_for_two_permits() {
    let (background, tally) = (background().with_capacity(2), Tally::default());
    let senders = [(); 3].map(|()| {
        let (background, jobs) = (background.clone(), router(&tally));
        thread::spawn(move || block_on(background.run(jobs, event(Status::Completed))))
    });
    let outcomes = senders.map(|sender| sender.join().unwrap());
    assert!(tally.most() <= 2, "more callbacks than permits");
    let handled = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(handled >= 2, "a permit was free");
    for outcome in outcomes {
        let refused = outcome.err().map(|error| error.kind());
        assert!(matches!(refused, None | Some(ErrorKind::Overloaded)));
    }
    drain(&background);
}

/// Senders that hang up at any time, before the callback or during it.
fn senders_that_hang_up() {
    let (background, tally) = (background().with_capacity(2), Tally::default());
    let background = match up_to(3) {
        // No runtime: the callback is cancelled.
        0 => background.with_spawn(drop),
        _ => background,
    };
    let senders = [(); 2].map(|()| {
        let (background, jobs) = (background.clone(), router(&tally));
        let polls = up_to(3);
        thread::spawn(move || {
            let run = background.run(jobs, event(Status::Completed));
            block_on(hang_up_after(polls, run))
        })
    });
    for sender in senders {
        sender.join().unwrap();
    }
    drain(&background);
    assert_eq!(tally.running(), 0, "a callback runs after the drain");
}

/// A drain at any time.
fn one_sender_and_a_drain() {
    let (background, tally) = (background(), Tally::default());
    let sender = {
        let (background, jobs) = (background.clone(), router(&tally));
        thread::spawn(move || block_on(background.run(jobs, event(Status::Completed))))
    };
    drain(&background);
    let before = (tally.started(), tally.finished());
    let outcome = sender.join().unwrap();
    let after = (tally.started(), tally.finished());
    assert_eq!(before, after, "a callback ran after the drain");
    match outcome {
        Ok(receipt) => assert_eq!((receipt, after), (Receipt::Handled, (1, 1))),
        Err(error) => assert_eq!((error.kind(), after), (ErrorKind::ShuttingDown, (0, 0))),
    }
}

/// Three drains at once, while a callback runs.
fn three_drains() {
    let (background, tally) = (background(), Tally::default());
    let sender = {
        let (background, jobs) = (background.clone(), router(&tally));
        thread::spawn(move || block_on(background.run(jobs, event(Status::Completed))))
    };
    let others = [(); 2].map(|()| {
        let background = background.clone();
        thread::spawn(move || drain(&background))
    });
    drain(&background);
    for other in others {
        other.join().unwrap();
    }
    let expected = usize::from(sender.join().unwrap().is_ok());
    assert_eq!(tally.finished(), expected, "a drain left a callback");
}

/// A callback that leaves an event to run after its own end, on the permit that it lends.
fn a_lent_permit_and_a_drain() {
    let (background, tally) = (background().with_capacity(1), Tally::default());
    let outer = {
        let (background, inner) = (background.clone(), router(&tally));
        JobRouter::new().on_challenged(move |_| {
            let (background, inner) = (background.clone(), inner.clone());
            async move { drop(spawn(background.run(inner, event(Status::Completed)))) }
        })
    };
    let sender = {
        let background = background.clone();
        thread::spawn(move || block_on(background.run(outer, event(Status::Challenged))))
    };
    drain(&background);
    let finished = tally.finished();
    let expected = usize::from(sender.join().unwrap().is_ok());
    assert_eq!(
        finished, expected,
        "the drain left a callback that has its permit on loan"
    );
    drain(&background);
}

#[test]
fn no_more_callbacks_run_than_the_capacity() {
    check(three_for_two_permits);
}

#[test]
fn no_permit_is_lost_when_senders_hang_up() {
    check(senders_that_hang_up);
}

#[test]
fn a_drain_waits_for_all_callbacks_and_none_starts_after_it() {
    check_all(one_sender_and_a_drain);
}

#[test]
fn drains_at_the_same_time_all_end() {
    check(three_drains);
}

#[test]
fn a_lent_permit_returns_once_when_both_have_ended() {
    check(a_lent_permit_and_a_drain);
}

/// Two events want one permit, and are dropped before they run.
#[test]
fn the_last_permit_is_given_and_returned_once() {
    check_all(|| {
        let background = Background::new().with_capacity(1);
        let tally = Tally::default();
        let run = |background: Background, jobs| {
            move || drop(background.run(jobs, event(Status::Completed)))
        };
        let other = thread::spawn(run(background.clone(), router(&tally)));
        run(background.clone(), router(&tally))();
        other.join().unwrap();
        drain(&background);
    });
}

#[test]
fn faults_are_noticed() {
    notices(
        "a permit is counted in two steps",
        &["permit"],
        no_more_callbacks_run_than_the_capacity,
    );
    notices(
        "a permit is counted in two steps",
        &["deadlock"],
        the_last_permit_is_given_and_returned_once,
    );
    notices(
        "permits are given after closing",
        &["a callback ran after the drain"],
        a_drain_waits_for_all_callbacks_and_none_starts_after_it,
    );
    notices(
        "a drain does not count again once its waker is stored",
        &["deadlock"],
        a_drain_waits_for_all_callbacks_and_none_starts_after_it,
    );
    notices(
        "a permit that is lent returns with its lender",
        &["deadlock", "on loan", "returned twice", "left: 1"],
        a_lent_permit_returns_once_when_both_have_ended,
    );
    notices(
        "one drain is woken",
        &["deadlock"],
        drains_at_the_same_time_all_end,
    );
}
