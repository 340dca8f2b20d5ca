//! Background callbacks are counted, bounded and awaited, including those acknowledged first.

use std::future::{pending, ready};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::background::BackgroundTask;
use mx_job_webhook::{
    Background, Error, ErrorKind, Job, JobEvent, JobRouter, JobWebhook, Receipt, Status,
};
use tokio::sync::Semaphore;
use tower::{Layer as _, ServiceExt as _};

use crate::support::{Log, RunIn as _, SAMPLE, credentials, delivery};

fn event() -> JobEvent {
    Job::new("JOB-1".parse().unwrap(), Status::Completed).into()
}

/// A router whose callbacks wait at a gate and are logged when they pass it.
fn gated(log: &Log, gate: &Arc<Semaphore>) -> JobRouter {
    let (log, gate) = (log.clone(), gate.clone());
    JobRouter::new().on_completed(move |_| {
        let (log, gate) = (log.clone(), gate.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            log.push("finished");
        }
    })
}

fn start<F: Future>(future: F) -> std::pin::Pin<Box<F>> {
    let mut future = Box::pin(future);
    let context = &mut Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(context).is_pending());
    future
}

#[tokio::test]
async fn drain_waits_for_callbacks_that_a_delivery_awaits() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let background = Background::new();
    let jobs = gated(&log, &gate).run_in(&background);
    let call = tokio::spawn(start(jobs.call(event())));
    let drain = tokio::spawn(async move { background.drain(pending::<()>()).await });
    tokio::task::yield_now().await;
    assert!(!drain.is_finished());
    gate.add_permits(1);
    assert_eq!(drain.await.unwrap(), 0);
    assert_eq!(call.await.unwrap().unwrap(), Receipt::Handled);
}

#[tokio::test]
async fn deliveries_past_the_bound_are_refused_and_no_callback_is_cancelled() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let background = Background::new().with_capacity(2);
    let jobs = gated(&log, &gate).run_in(&background);
    let first = start(jobs.call(event()));
    let second = start(jobs.call(event()));
    let kind = |outcome: Result<Receipt, Error>| outcome.unwrap_err().kind();
    assert_eq!(kind(jobs.call(event()).await), ErrorKind::Overloaded);
    drop(first);
    if cfg!(feature = "tokio") {
        // It continues and keeps its permit.
        assert_eq!(kind(jobs.call(event()).await), ErrorKind::Overloaded);
    }
    gate.add_permits(3);
    assert!(second.await.is_ok());
    tokio::task::yield_now().await;
    assert!(jobs.call(event()).await.is_ok());
    assert_eq!(background.running(), 0);
}

/// Another runtime's executor: a list of spawned tasks.
#[test]
fn another_runtime_continues_callbacks_through_its_spawn_function() {
    let (executor, tasks) = std::sync::mpsc::channel::<BackgroundTask>();
    let background = Background::new().with_spawn(move |task| executor.send(task).unwrap());
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let endpoint =
        JobWebhook::new(credentials(), gated(&log, &gate)).with_background(background.clone());
    drop(start(endpoint.oneshot(delivery(SAMPLE))));
    let mut task = tasks.try_recv().unwrap();
    let context = &mut Context::from_waker(Waker::noop());
    assert!(std::pin::Pin::new(&mut task).poll(context).is_pending());
    assert_eq!(background.running(), 1);
    gate.add_permits(1);
    assert!(std::pin::Pin::new(&mut task).poll(context).is_ready());
    assert_eq!((log.entries().len(), background.running()), (1, 0));
}

#[test]
fn a_cancelled_callback_releases_its_permit() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let background = Background::new();
    let jobs = gated(&log, &gate).run_in(&background);
    let call = start(jobs.call(event()));
    assert_eq!(background.running(), 1);
    drop(call); // there is no runtime here
    assert_eq!(background.running(), 0);
}

/// `service_fn(|event| router…)`, where the mount and the router share one `Background`.
#[tokio::test]
async fn a_router_within_a_custom_service_takes_no_second_permit() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let background = Background::new().with_capacity(1);
    let router = gated(&log, &gate).run_in(&background);
    let own = tower::service_fn(move |event: JobEvent| {
        let router = router.clone();
        // The router is called directly, and again within a future.
        let first = router.call(event.clone());
        async move {
            first.await?;
            router.call(event).await
        }
    });
    let endpoint = JobWebhook::new(credentials(), own).with_background(background.clone());
    let answer = tokio::spawn(endpoint.clone().oneshot(delivery(SAMPLE)));
    tokio::task::yield_now().await;
    assert_eq!(background.running(), 1);
    let other = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(other.status(), 503, "the permit is taken");
    // A callback that has started finishes during shutdown too.
    let drained = background.clone();
    let drain = tokio::spawn(async move { drained.drain(pending::<()>()).await });
    tokio::task::yield_now().await;
    gate.add_permits(2);
    assert_eq!(answer.await.unwrap().unwrap().status(), 204);
    assert_eq!(drain.await.unwrap(), 0);
    assert_eq!((log.entries().len(), background.running()), (2, 0));
}

/// Of the calls that a callback starts without awaiting, one keeps the callback's permit.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_call_that_outlives_its_callback_keeps_the_permit_and_is_awaited() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let background = Background::new().with_capacity(2);
    let inner = gated(&log, &gate).run_in(&background);
    let own = tower::service_fn(move |event: JobEvent| {
        // One call is polled elsewhere; the other is dropped midway and continues.
        let elsewhere = tokio::spawn(inner.call(event.clone()));
        drop(start(inner.call(event)));
        async move {
            drop(elsewhere);
            Ok::<_, Error>(())
        }
    });
    let endpoint = JobWebhook::new(credentials(), own).with_background(background.clone());
    assert_eq!(
        endpoint.oneshot(delivery(SAMPLE)).await.unwrap().status(),
        204
    );
    assert_eq!(background.running(), 2);
    tokio::task::yield_now().await;
    gate.add_permits(1);
    tokio::task::yield_now().await;
    assert_eq!(background.running(), 1, "one of the two continues");
    gate.add_permits(1);
    assert_eq!(background.drain(pending::<()>()).await, 0);
    assert_eq!(log.entries().len(), 2);
}

#[tokio::test]
async fn an_empty_background_drains_at_once() {
    assert_eq!(Background::new().drain(ready(())).await, 0);
}

#[test]
fn an_event_that_cannot_run_in_the_background_is_not_acknowledged() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(1)));
    let layer = AcknowledgeFirstLayer::new(|_| ());
    let mut outcome = Box::pin(layer.layer(gated(&log, &gate)).oneshot(event()));
    let context = &mut Context::from_waker(Waker::noop());
    let std::task::Poll::Ready(outcome) = outcome.as_mut().poll(context) else {
        panic!("the delivery waits for a missing runtime");
    };
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Overloaded);
    assert!(log.entries().is_empty());
}

/// Tests that need the feature `tokio`.
#[cfg(feature = "tokio")]
mod on_tokio {
    use std::time::Duration;

    use super::*;
    use crate::support::panic_quietly;
    use crate::support::within;

    fn failures(log: &Log) -> impl Fn(mx_job_webhook::callback::Failure<'_>) + Send + Sync + use<> {
        let log = log.clone();
        move |failure| {
            let guid = failure.job().map(|job| job.guid.to_string());
            log.push(format!("{:?} {guid:?}", failure.error().kind()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_running_callbacks_and_reports_how_many_remain() {
        let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
        let background = Background::new();
        let endpoint =
            JobWebhook::new(credentials(), gated(&log, &gate)).with_background(background.clone());
        for _ in 0..3 {
            drop(start(endpoint.clone().oneshot(delivery(SAMPLE))));
        }
        assert_eq!(background.running(), 3);
        gate.add_permits(1);
        let left = background.drain(tokio::time::sleep(Duration::from_secs(30)));
        assert_eq!(left.await, 2);
        let refused = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
        assert_eq!(refused.status(), 503);
        gate.add_permits(2);
        assert_eq!(background.drain(pending::<()>()).await, 0);
        assert_eq!(log.entries().len(), 3);
        assert_eq!(background.running(), 0);
    }

    #[tokio::test]
    async fn a_callback_after_the_acknowledgement_reports_its_failure() {
        let (log, failed) = (Log::default(), Log::default());
        let (background, gate) = (Background::new(), Arc::new(Semaphore::new(0)));
        let router = gated(&log, &gate)
            .on_halted(|_| async { Err("no recipient") })
            .on_denied(|_| async { panic_quietly() });
        let layer = AcknowledgeFirstLayer::new(failures(&failed));
        let jobs = layer.layer(router);
        for status in [Status::Completed, Status::Halted, Status::Denied] {
            let event = Job::new("JOB-1".parse().unwrap(), status).into();
            let receipt = background.run(jobs.clone(), event).await.unwrap();
            assert_eq!(receipt, Receipt::Accepted);
        }
        assert_eq!(background.running(), 3);
        gate.add_permits(1);
        assert_eq!(background.drain(pending::<()>()).await, 0);
        assert_eq!(log.entries(), ["finished"]);
        assert_eq!(
            failed.entries(),
            [
                r#"CallbackFailed Some("JOB-1")"#,
                r#"CallbackPanicked Some("JOB-1")"#
            ]
        );
        let late = background.run(jobs, event()).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::ShuttingDown);
    }

    #[tokio::test]
    async fn events_acknowledged_first_are_bounded() {
        let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
        let background = Background::new().with_capacity(2);
        let layer = AcknowledgeFirstLayer::new(|_| ());
        let jobs = layer.layer(gated(&log, &gate));
        // The delivery takes a permit too, while it is accepted.
        let first = within(&background, jobs.clone().oneshot(event()));
        assert_eq!(first.await.unwrap(), Receipt::Accepted);
        let refused = within(&background, jobs.oneshot(event())).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Overloaded);
        gate.add_permits(1);
        assert_eq!(background.drain(pending::<()>()).await, 0);
    }

    #[test]
    fn an_acknowledged_callback_that_is_cancelled_is_reported() {
        let failed = Log::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let layer = AcknowledgeFirstLayer::new(failures(&failed));
        let jobs = layer.layer(gated(&Log::default(), &gate));
        let receipt = runtime.block_on(jobs.oneshot(event())).unwrap();
        assert_eq!(receipt, Receipt::Accepted);
        drop(runtime);
        assert_eq!(failed.entries(), [r#"CallbackCancelled Some("JOB-1")"#]);
    }
}

/// "Even within a callback": a delivery to another mount of the same `Background` needs a permit of its own.
#[tokio::test]
async fn a_delivery_within_a_callback_needs_a_permit_of_its_own() {
    let background = Background::new().with_capacity(1);
    let inner =
        JobWebhook::new(credentials(), JobRouter::new()).with_background(background.clone());
    let log = Log::default();
    let (app, noted) = (inner.clone(), log.clone());
    let jobs = JobRouter::new().on_completed(move |_| {
        let (app, log) = (app.clone(), noted.clone());
        async move {
            let answer = app.oneshot(delivery(SAMPLE)).await.unwrap();
            log.push(answer.status().as_str());
        }
    });
    let outer = JobWebhook::new(credentials(), jobs).with_background(background);
    assert_eq!(outer.oneshot(delivery(SAMPLE)).await.unwrap().status(), 204);
    assert_eq!(log.entries(), ["503"]);
}

#[test]
fn a_capacity_and_a_function_that_spawns_keep_each_other() {
    for capacity_first in [false, true] {
        let log = Log::default();
        let noted = log.clone();
        let spawn = move |task: BackgroundTask| {
            noted.push("spawned");
            drop(task);
        };
        let background = Background::new();
        let background = if capacity_first {
            background.with_capacity(1).with_spawn(spawn)
        } else {
            background.with_spawn(spawn).with_capacity(1)
        };
        let jobs = JobRouter::new().on_completed(|_| pending::<()>());
        let webhooks = JobWebhook::new(credentials(), jobs).with_background(background);
        let first = start(webhooks.clone().oneshot(delivery(SAMPLE)));
        let mut second = Box::pin(webhooks.oneshot(delivery(SAMPLE)));
        let context = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(refused) = second.as_mut().poll(context) else {
            panic!("there is room for a second delivery");
        };
        assert_eq!(refused.unwrap().status(), 503);
        drop(first);
        assert_eq!(log.entries(), ["spawned"]);
    }
}
