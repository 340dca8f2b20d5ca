//! The hand-over: a callback whose sender hangs up, or is answered first, runs once or is reported.

use std::sync::Arc;

use mx_job_webhook_concurrency::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook_concurrency::background::BackgroundTask;
use mx_job_webhook_concurrency::{
    Background, Credentials, ErrorKind, JobRouter, JobWebhook, Receipt, Status,
};
use shuttle::future::{block_on, spawn};
use shuttle::thread;
use tokio::sync::Semaphore;
use tower::{Layer as _, ServiceExt as _};

use crate::support::{
    Tally, background, check, delivery, drain, event, hang_up_after, notices, up_to,
};

/// Hands each task to a thread that drops it, as a runtime that shuts down does.
fn shutting_down() -> Background {
    Background::new().with_spawn(|task: BackgroundTask| drop(thread::spawn(move || drop(task))))
}

/// A sender that hangs up at any time. The callback waits for another thread.
fn a_sender_that_hangs_up() {
    let (tally, gate) = (Tally::default(), Arc::new(Semaphore::new(0)));
    let finishes = up_to(2) > 0;
    let background = if finishes {
        background()
    } else {
        shutting_down()
    };
    let jobs = {
        let (tally, gate) = (tally.clone(), gate.clone());
        JobRouter::new().on_completed(move |_| {
            let (tally, gate) = (tally.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                tally.callback().await;
            }
        })
    };
    let reports = tally.clone();
    let endpoint = JobWebhook::new(Credentials::unauthenticated(), jobs)
        .with_background(background.clone())
        .on_error(move |_| reports.report());
    let polls = up_to(4);
    let sender = thread::spawn(move || {
        let answer = block_on(hang_up_after(
            polls,
            endpoint.oneshot(delivery("Basic eDp5")),
        ));
        answer.map(|answer| answer.unwrap().status().as_u16())
    });
    let opener = thread::spawn(move || gate.add_permits(1));
    let answer = sender.join().unwrap();
    opener.join().unwrap();
    drain(&background);
    let ends = (tally.finished(), tally.reported());
    match answer {
        Some(status) => assert_eq!((status, ends), (204, (1, 0))),
        // It was not called: MX delivers it again.
        None if polls == 0 => assert_eq!(ends, (0, 0)),
        None if finishes => assert_eq!(ends, (1, 0), "the rest of the callback was lost"),
        None => assert_eq!(
            ends.0 + ends.1,
            1,
            "neither finished nor reported: {ends:?}"
        ),
    }
}

/// A callback that is acknowledged first, on a runtime that takes it or drops it.
fn acknowledged_first() {
    let tally = Tally::default();
    let finishes = up_to(2) == 0;
    let background = if finishes {
        background()
    } else {
        shutting_down()
    };
    let (callbacks, reports) = (tally.clone(), tally.clone());
    let jobs = AcknowledgeFirstLayer::new(move |_| reports.report())
        .layer(JobRouter::new().on_completed(move |_| callbacks.clone().callback()));
    let outcome = block_on(background.run(jobs, event(Status::Completed)));
    drain(&background);
    let ends = (tally.finished(), tally.reported());
    match outcome {
        Ok(receipt) => {
            assert_eq!(receipt, Receipt::Accepted);
            let expected = if finishes { (1, 0) } else { (0, 1) };
            assert_eq!(ends, expected, "accepted, and then lost");
        }
        // MX delivers it again.
        Err(error) => assert_eq!((error.kind(), ends), (ErrorKind::Overloaded, (0, 0))),
    }
}

#[test]
fn a_callback_whose_sender_hangs_up_runs_once_or_is_reported() {
    check(a_sender_that_hangs_up);
}

#[test]
fn a_callback_that_is_acknowledged_first_runs_once_or_is_reported() {
    check(acknowledged_first);
}

#[test]
fn two_spawned_senders_share_a_background() {
    check(|| {
        let (background, tally) = (background(), Tally::default());
        let senders = [(); 2].map(|()| {
            let tally = tally.clone();
            let jobs = JobRouter::new().on_completed(move |_| tally.clone().callback());
            let run = background.run(jobs, event(Status::Completed));
            spawn(hang_up_after(1, run))
        });
        for sender in senders {
            assert!(block_on(sender).unwrap().is_none());
        }
        drain(&background);
        assert_eq!(tally.finished(), 2);
    });
}

#[test]
fn faults_are_noticed() {
    notices(
        "the rest of a callback is dropped",
        &["the rest of the callback was lost"],
        a_callback_whose_sender_hangs_up_runs_once_or_is_reported,
    );
    notices(
        "the rest of a callback takes another permit",
        &["the rest of the callback was lost", "deadlock"],
        a_callback_whose_sender_hangs_up_runs_once_or_is_reported,
    );
    notices(
        "an offer is accepted and refused",
        &["accepted, and then lost"],
        a_callback_that_is_acknowledged_first_runs_once_or_is_reported,
    );
}
