//! What becomes of a delivery whose future is dropped, step by step.

use std::sync::Arc;
use std::task::{Context, Waker};

use mx_job_webhook::{Job, JobEvent, JobRouter, JobWebhook, Status};
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, ServiceExt as _};

use crate::support::{Frames, Log, SAMPLE, credentials, delivery, run};

/// A router whose callback waits at a gate between "started" and "finished".
fn gated(log: &Log, gate: &Arc<Semaphore>) -> JobRouter {
    let (log, gate) = (log.clone(), gate.clone());
    JobRouter::new().on_completed(move |_| {
        let (log, gate) = (log.clone(), gate.clone());
        async move {
            log.push("started");
            gate.acquire().await.unwrap().forget();
            log.push("finished");
        }
    })
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    future
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_callback_that_started_finishes_when_nobody_waits_any_more() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let endpoint = JobWebhook::new(credentials(), gated(&log, &gate));
    let mut response = Box::pin(endpoint.oneshot(delivery(SAMPLE)));
    assert!(!poll_once(response.as_mut()));
    assert_eq!(log.entries(), ["started"]);
    drop(response);
    gate.add_permits(1);
    settle().await;
    let expected: &[&str] = if cfg!(feature = "tokio") {
        &["started", "finished"]
    } else {
        &["started"]
    };
    assert_eq!(log.entries(), expected);
}

#[tokio::test]
async fn a_callback_that_was_waited_for_leaves_nothing_behind() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(9)));
    let endpoint = JobWebhook::new(credentials(), gated(&log, &gate));
    let answer = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test]
async fn the_same_for_a_handler_that_calls_the_router() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let jobs = gated(&log, &gate);
    let event = JobEvent::from(Job::new("JOB-1".parse().unwrap(), Status::Completed));
    let mut outcome = Box::pin(run(&jobs, event));
    assert!(!poll_once(outcome.as_mut()));
    drop(outcome);
    gate.add_permits(1);
    settle().await;
    assert_eq!(
        log.entries().len(),
        if cfg!(feature = "tokio") { 2 } else { 1 }
    );
}

#[tokio::test]
async fn a_hook_for_the_undecodable_finishes_too() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let (seen, opened) = (log.clone(), gate.clone());
    let endpoint = JobWebhook::new(credentials(), JobRouter::new()).on_undecodable(move |_| {
        let (seen, opened) = (seen.clone(), opened.clone());
        async move {
            seen.push("started");
            opened.acquire().await.unwrap().forget();
            seen.push("finished");
        }
    });
    let mut response = Box::pin(endpoint.oneshot(delivery("{}")));
    assert!(!poll_once(response.as_mut()));
    drop(response);
    gate.add_permits(1);
    settle().await;
    assert_eq!(
        log.entries().len(),
        if cfg!(feature = "tokio") { 2 } else { 1 }
    );
}

#[tokio::test]
async fn nothing_runs_on_that_had_not_started() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(9)));
    let limited = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(gated(&log, &gate));
    // In the middle of the body.
    let endpoint = JobWebhook::new(credentials(), limited.clone());
    let body = Frames::of_data([&SAMPLE.as_bytes()[..100]]).then_nothing_for_ever();
    let mut response = Box::pin(endpoint.clone().oneshot(delivery(body)));
    assert!(!poll_once(response.as_mut()));
    drop(response);
    // While the callbacks are busy.
    let busy = limited.clone().ready_oneshot().await.unwrap();
    let mut response = Box::pin(endpoint.clone().oneshot(delivery(SAMPLE)));
    assert!(!poll_once(response.as_mut()));
    drop(response);
    drop(busy);
    settle().await;
    assert_eq!(log.entries(), Vec::<String>::new());
    // And nothing is left behind that would hold up the next one.
    assert_eq!(
        endpoint.oneshot(delivery(SAMPLE)).await.unwrap().status(),
        204
    );
}

#[test]
fn dropped_outside_of_a_runtime_it_is_cancelled_and_does_not_panic() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let endpoint = JobWebhook::new(credentials(), gated(&log, &gate));
    let mut response = Box::pin(endpoint.oneshot(delivery(SAMPLE)));
    assert!(!poll_once(response.as_mut()));
    drop(response);
    assert_eq!(log.entries(), ["started"]);
}

#[test]
fn dropped_by_a_runtime_that_shuts_down_it_is_cancelled_and_does_not_panic() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let endpoint = JobWebhook::new(credentials(), gated(&log, &gate));
    runtime.spawn(endpoint.oneshot(delivery(SAMPLE)));
    while log.entries().is_empty() {
        std::thread::yield_now();
    }
    drop(runtime);
    assert_eq!(log.entries(), ["started"]);
}
