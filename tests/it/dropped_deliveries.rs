//! The end of a delivery whose future is dropped, at each step.

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
async fn a_started_callback_finishes_after_the_sender_hung_up() {
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
async fn an_awaited_callback_leaves_no_task_behind() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(9)));
    let endpoint = JobWebhook::new(credentials(), gated(&log, &gate));
    let answer = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test]
async fn a_started_callback_finishes_after_its_handler_is_dropped() {
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
async fn a_started_undecodable_hook_finishes_after_the_sender_hung_up() {
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
async fn a_callback_that_has_not_started_does_not_run_after_a_hang_up() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(9)));
    let limited = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(gated(&log, &gate));
    // The delivery is dropped in the middle of its body.
    let endpoint = JobWebhook::new(credentials(), limited.clone());
    let body = Frames::of_data([&SAMPLE.as_bytes()[..100]]).then_pending();
    let mut response = Box::pin(endpoint.clone().oneshot(delivery(body)));
    assert!(!poll_once(response.as_mut()));
    drop(response);
    // The delivery is dropped while the callbacks are busy.
    let busy = limited.clone().ready_oneshot().await.unwrap();
    let mut response = Box::pin(endpoint.clone().oneshot(delivery(SAMPLE)));
    assert!(!poll_once(response.as_mut()));
    drop(response);
    drop(busy);
    settle().await;
    assert_eq!(log.entries(), Vec::<String>::new());
    // The dropped delivery does not block the next one.
    assert_eq!(
        endpoint.oneshot(delivery(SAMPLE)).await.unwrap().status(),
        204
    );
}

#[test]
fn a_callback_dropped_outside_of_a_runtime_is_cancelled_without_a_panic() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let endpoint = JobWebhook::new(credentials(), gated(&log, &gate));
    let mut response = Box::pin(endpoint.oneshot(delivery(SAMPLE)));
    assert!(!poll_once(response.as_mut()));
    drop(response);
    assert_eq!(log.entries(), ["started"]);
}

#[test]
fn a_callback_dropped_by_its_runtimes_shutdown_is_cancelled_without_a_panic() {
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
